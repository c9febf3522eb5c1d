"""Commit records of many checkpoints, each read once: a survey or a report asks for the same ones again and again."""

from collections.abc import Iterable
from typing import Protocol

from virnuc_dagster.checkpoints import CheckpointError, CheckpointKey, CheckpointStore, CommitRecord


class Records(Protocol):
    """Where records are looked up: a store, or what is remembered of one."""

    def record(self, key: CheckpointKey) -> CommitRecord | None:
        """The commit record, or None if nothing is committed; raises `CheckpointError` if it is damaged."""
        ...


class RecordCache:
    """A store's records as they were when first asked for.

    Args:
        store: Where they are read.
        keys: Read at once; on an object store, where each costs requests, many at a time.
    """

    def __init__(self, store: CheckpointStore, keys: Iterable[CheckpointKey] = ()) -> None:
        self._store = store
        self._known: dict[CheckpointKey, CommitRecord | CheckpointError | None] = {}
        self.fetch(keys)

    def fetch(self, keys: Iterable[CheckpointKey]) -> None:
        """Read the records of these keys that are not known yet."""
        unknown = [key for key in dict.fromkeys(keys) if key not in self._known]
        if unknown:
            self._known.update(zip(unknown, self._store.records(unknown), strict=True))

    def record(self, key: CheckpointKey) -> CommitRecord | None:
        """Like `CheckpointStore.record`; asked again, it answers the same."""
        self.fetch([key])
        found = self._known[key]
        if isinstance(found, CheckpointError):
            raise found
        return found
