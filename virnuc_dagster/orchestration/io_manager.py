"""The bridge from Dagster's outputs and inputs to the checkpoint store. No number is computed here."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from virnuc_dagster.checkpoints import (
    CheckpointError,
    CheckpointKey,
    CheckpointMissingError,
    CheckpointStore,
    CommitRecord,
    Level,
    Payload,
    open_store,
)
from virnuc_dagster.home.written_by import writer
from virnuc_dagster.stages.keys import shard_checkpoint

#: Beginnings of the names of variables that a store reads when it is opened.
_ENV = ("AWS_", "VIRNUC_STORE")


@dataclass(frozen=True)
class CheckpointIOManager(dg.IOManager):
    """Keeps asset partitions as checkpoints: atomic saves, validation, versioned loads, `.done` records.

    An asset may hand over its payload, or commit its partitions itself and hand over None: then every partition of the
    output must be committed, or the step fails. Existence means a commit record with a data file of the right size.

    Attributes:
        root: Folder or URL (s3://...) of the checkpoint store.
        validation: How much of a checkpoint is checked when it is read: `load` compares the digest, `full` also checks
            every value, `skip` only loads safely.
    """

    root: str
    validation: str = "load"

    @property
    def store(self) -> CheckpointStore:
        """The store itself, for assets that commit shard by shard."""
        return _store(
            self.root, os.getpid(), frozenset(item for item in os.environ.items() if item[0].startswith(_ENV))
        )

    @property
    def level(self) -> Level:
        """How much is checked at load."""
        return Level(self.validation)

    def handle_output(self, context: dg.OutputContext, obj: Payload | None) -> None:
        """Commit a payload, or verify that every partition of the output is committed.

        Raises:
            CheckpointMissingError: The asset handed over None and a partition has no checkpoint.
        """
        stage = context.asset_key.path[-1]
        keys = [_key(stage, partition) for partition in context.asset_partition_keys]
        store = self.store
        if obj is None:
            for key, found in zip(keys, store.records(keys), strict=True):
                if isinstance(found, CheckpointError):
                    raise found
                if found is None:
                    raise CheckpointMissingError(key)
            return
        if len(keys) != 1:
            raise ValueError(f"one payload for {len(keys)} partitions of {stage}; commit them one by one instead")
        definition = context.output_metadata or {}
        provenance = definition["provenance"].value if "provenance" in definition else {}
        record = store.save(keys[0], obj, dict(provenance), writer(context.run_id))
        context.add_output_metadata(record_metadata(record))

    def load_input(self, context: dg.InputContext) -> Payload | dict[str, Payload]:
        """One partition's payload, or a dict by partition key for several.

        With metadata `allow_missing_partitions` on the input, missing ones are left out.

        Raises:
            CheckpointMissingError: A partition has no checkpoint.
            CheckpointError: A checkpoint is damaged or of a version that cannot be read.
        """
        stage = context.asset_key.path[-1]
        partitions = list(context.asset_partition_keys)
        skip_missing = bool((context.definition_metadata or {}).get("allow_missing_partitions"))
        store, payloads = self.store, {}
        for partition in partitions:
            try:
                payloads[partition] = store.load(_key(stage, partition), self.level)
            except CheckpointMissingError:
                if not skip_missing:
                    raise
                context.log.warning(f"{stage} of {partition} is not there and was left out")
        if len(partitions) == 1 and payloads:
            return payloads[partitions[0]]
        return payloads


@functools.lru_cache(maxsize=4)
def _store(root: str, process: int, environment: frozenset[tuple[str, str]]) -> CheckpointStore:
    """One store a root and process: it keeps its connections, and remembers that its service is away.

    A forked child must not use its parent's connections, and a store reads the environment once, so that both are in
    the key.
    """
    return open_store(root)


def _key(stage: str, partition: str) -> CheckpointKey:
    """The checkpoint of a partition; a key that could leave the store is refused."""
    return shard_checkpoint(stage, partition)


def record_metadata(record: CommitRecord) -> Mapping[str, Any]:
    """What Dagster shows of a committed checkpoint."""
    metadata: dict[str, Any] = {
        "dagster/row_count": record.rows,
        "bytes": record.bytes,
        "sha256": record.sha256,
        "file": record.file,
        "provenance": dg.MetadataValue.json(record.provenance),
    }
    if record.dim:
        metadata |= {"dim": record.dim, "dtype": record.dtype}
    return metadata
