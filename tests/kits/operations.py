"""Every operation that changes a store."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kits.torture import FOLDER, KEY, save
from virnuc_dagster.checkpoints import LocalStore


@dataclass(frozen=True)
class Operation:
    """Something that changes a store, what was there before, and which versions may be found afterwards."""

    before: tuple[int, ...]
    operate: Callable[[Path, int], object]
    found: tuple[int | None, ...]


def leave_behind(root: Path) -> None:
    (root / FOLDER / f"{KEY.shard}.0123456789abcdef.pt").write_bytes(b"never committed")
    (root / FOLDER / ".left.tmp").write_bytes(b"half")


def sweep(root: Path, rows: int) -> None:
    LocalStore(root).sweep(grace_seconds=0, superseded=True)


OPERATIONS = {
    "first save": Operation((), lambda root, rows: save(root, 1, rows), (None, 1)),
    "overwrite": Operation((1,), lambda root, rows: save(root, 2, rows), (1, 2)),
    "third generation": Operation((1, 2), lambda root, rows: save(root, 3, rows), (2, 3)),
    "equal content again": Operation((1, 2), lambda root, rows: save(root, 2, rows), (2,)),
    "remove": Operation((1, 2), lambda root, rows: LocalStore(root).remove(KEY), (2, None)),
    "quarantine": Operation((1, 2), lambda root, rows: LocalStore(root).quarantine(KEY, "torture"), (2, None)),
    "sweep": Operation((1, 2), sweep, (2,)),
}
