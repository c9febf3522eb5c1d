"""Files of the original program and of its first refactoring: reading them, and writing current ones beside them.

What a file is, its keys say; its name only helps people. A file is never changed. Files of version 1.0 carry a status
and an empty `.done` beside them and count only with both; older ones have neither and count as they are.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnuc_dagster.checkpoints import archive
from virnuc_dagster.checkpoints.errors import CheckpointDamagedError, CheckpointError, CheckpointIncompatibleError
from virnuc_dagster.checkpoints.format import RECORD_SUFFIX, CommitRecord
from virnuc_dagster.checkpoints.medium import LocalMedium
from virnuc_dagster.checkpoints.store import Store
from virnuc_dagster.checkpoints.validate import check_size, read_payload, require_torch
from virnuc_dagster.checkpoints.versions import CURRENT_VERSION, parse_version
from virnuc_dagster.errors import typed_os_errors

if TYPE_CHECKING:
    import torch

#: Kind of a segment: an encoder's vectors, without saying whose.
SEGMENT = "segment"
_CURRENT = re.compile(r"\.[0-9a-f]{16}\.pt$")


@dataclass(frozen=True)
class LegacyFile:
    """What an older file holds.

    Attributes:
        path: Where it lies.
        version: `0.x` or `1.x`.
        kind: The registered one whose older files look so, or `segment` (of any encoder).
        ids: Frame ids, N of them.
        data: float32 (N, D), row i of `ids[i]`.
        labels: int64 (N) of training files, or None.
        sha256: Digest of the file.
    """

    path: Path
    version: str
    kind: str
    ids: list[str]
    data: "torch.Tensor"
    labels: "torch.Tensor | None"
    sha256: str


def find_legacy(folder: Path) -> Iterator[Path]:
    """Every `.pt` below a folder (or the file itself) that is not one of a current store, sorted."""
    if folder.is_file():
        yield folder
        return
    for path in sorted(folder.rglob("*.pt")):
        if not _CURRENT.search(path.name):
            yield path


def read_legacy(path: Path) -> LegacyFile:
    """Read one older file; it stays as it is.

    Raises:
        CheckpointDamagedError: It is not whole.
        CheckpointIncompatibleError: It is of no known kind, is not finished, or is a current one.
        FileNotFoundError: It is not there.
    """
    import torch

    with typed_os_errors(path):
        data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    segment = _read_segment(data, path)
    if segment is not None:
        return LegacyFile(path, "1.0", SEGMENT, *segment, None, digest)
    payload = read_payload(data, path, None)
    version = str(payload.get("migrated_from", CURRENT_VERSION))
    if version == CURRENT_VERSION:
        raise CheckpointIncompatibleError(path, "incompatible: is of the current version already", hint="")
    if parse_version(version) >= (1, 0):
        _need_marker(path)
    labels = payload.get("labels")
    if labels is not None and len(labels) == 1 != len(payload["ids"]):
        labels = labels.repeat(len(payload["ids"]))  # training files name one label for all rows
    return LegacyFile(path, version, payload["kind"], payload["ids"], payload["data"].to(torch.float32), labels, digest)


def _need_marker(path: Path) -> None:
    if not path.with_name(path.name + ".done").exists():
        raise CheckpointIncompatibleError(
            path,
            "incompatible: not finished, its .done is missing",
            hint="leave it out, or finish it where it was made",
        )


def _read_segment(data: bytes, path: Path) -> "tuple[list[str], torch.Tensor] | None":
    """Ids and rows of a batch segment of version 1.0, which holds a numpy array; None if it is no segment.

    For this call alone the loader admits numpy's array constructors, under the names that numpy 1 and 2 write.
    """
    import torch

    check_size(len(data), path, None)
    require_torch(torch.__version__)
    try:
        archive.members(data)
        with torch.serialization.safe_globals(_numpy_constructors()):
            payload = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception:
        return None  # whatever it is, reading it as an ordinary file says what is wrong
    if not isinstance(payload, dict) or not {"embeddings", "sequence_ids"} <= payload.keys():
        return None
    _need_marker(path)
    return _segment_rows(payload, path)


def _segment_rows(payload: dict[str, Any], path: Path) -> "tuple[list[str], torch.Tensor]":
    import numpy as np
    import torch

    ids, rows = payload["sequence_ids"], payload["embeddings"]
    ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.ndim != 2 or len(rows) != len(ids):
        raise CheckpointIncompatibleError(path, "incompatible: embeddings are not one row of numbers for each id")
    if not all(type(name) is str for name in ids) or len(set(ids)) != len(ids):
        raise CheckpointIncompatibleError(path, "incompatible: ids are not unique texts")
    if not np.isfinite(rows).all():
        raise CheckpointDamagedError(path, "corrupted: embeddings hold NaN or infinite values")
    return ids, torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))


def _numpy_constructors() -> list[Any]:
    import numpy as np

    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    dtypes = [getattr(np.dtypes, name) for name in ("Float16DType", "Float32DType", "Float64DType")]
    return [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *dtypes,
    ]


@dataclass(frozen=True)
class Migrated:
    """What became of one older file: its new record, or why there is none."""

    path: Path
    record: CommitRecord | None
    reason: str = ""
    done_before: bool = False


def migrate_file(path: Path) -> Migrated:
    """Write a current checkpoint beside an older file: `<name>-v2.<digest>.pt` and its record.

    Doing it again writes nothing. The older file stays as it is.
    """
    try:
        old = read_legacy(path)
        if old.kind == SEGMENT:
            reason = "incompatible: a segment does not say which encoder made it; import it into a batch instead"
            raise CheckpointIncompatibleError(path, reason, hint="")
        source = {"version": old.version, "file": path.name, "sha256": old.sha256}
        store = Store(LocalMedium(path.parent))
        target = _target(store, path, source)
        stored = store.record_at(target)
        if stored and stored.provenance == {"migrated_from": source}:
            return Migrated(path, stored, done_before=True)
        payload = {"ids": old.ids, "data": old.data} | ({} if old.labels is None else {"labels": old.labels})
        return Migrated(path, store.save_as(target, old.kind, payload, {"migrated_from": source}))
    except CheckpointError as error:
        return Migrated(path, None, error.reason)


def _target(store: Store, path: Path, source: dict[str, str]) -> Path:
    """The record's path: safe characters only, and not the place of another file's migration."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:150] or "checkpoint"
    target = path.with_name(f"{slug}-v2{RECORD_SUFFIX}")
    try:
        stored = store.record_at(target)
    except CheckpointError:
        return target
    if stored and stored.provenance.get("migrated_from", {}).get("file") != source["file"]:
        tag = hashlib.sha256(path.name.encode()).hexdigest()[:8]
        return path.with_name(f"{slug}-{tag}-v2{RECORD_SUFFIX}")
    return target
