"""Validation levels: when the bytes of a data file count as a checkpoint.

1 size · 2 ZIP with right CRCs · 3 tensor-only load · 4 required keys · 5 sha256 · 6 schema. The digest is compared
before anything is unpickled: bytes that are not the committed ones are never parsed.
"""

import contextlib
import enum
import hashlib
import io
import re
from pathlib import Path
from typing import Any

from virnuc_dagster.checkpoints import archive
from virnuc_dagster.checkpoints.errors import CheckpointDamagedError, CheckpointIncompatibleError
from virnuc_dagster.checkpoints.format import CommitRecord, Payload
from virnuc_dagster.checkpoints.kinds import Kind, find_kind
from virnuc_dagster.checkpoints.versions import VersionError, migrate
from virnuc_dagster.errors import StorageError, VirnucError, typed_os_errors

#: The first release whose `weights_only` load is hardened.
TORCH_MIN = (2, 6)
_DEPTH_MAX = 3
_PLAIN = (str, int, float, bool, type(None), dict, list, tuple)


class Level(enum.Enum):
    """How much is checked before a payload is handed out."""

    SKIP = "skip"  #: size and tensor-only load
    LOAD = "load"  #: for use: 1, 3, 4, 5 and the shapes of the schema
    FULL = "full"  #: everything


def check_size(size: int, path: object, record: CommitRecord | None) -> None:
    """Level 1: the file is not empty and has the committed size.

    Raises:
        CheckpointDamagedError: If not.
    """
    if size == 0:
        raise CheckpointDamagedError(path, "corrupted: file is 0 bytes")
    if record is not None and size != record.bytes:
        raise CheckpointDamagedError(path, f"corrupted: size differs ({size:,} bytes, committed {record.bytes:,})")


def check_digest(data: archive.Buffer, path: object, record: CommitRecord) -> None:
    """Levels 1 and 5: the bytes are the committed ones.

    Raises:
        CheckpointDamagedError: If not.
    """
    check_size(len(data), path, record)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise CheckpointDamagedError(path, "corrupted: digest differs from the commit record")


def read_payload(
    data: archive.Buffer,
    path: object,
    record: CommitRecord | None,
    level: Level = Level.LOAD,
    *,
    map_location: str = "cpu",
    file: Path | None = None,
) -> Payload:
    """Check the bytes of one data file and return what they hold, migrated to the current version.

    Args:
        data: The whole file; what is checked is exactly what is returned.
        path: Where it came from, for messages.
        record: Its commit record; `None` for files of older programs, which have none.
        level: How much to check.
        map_location: Where tensors go; `meta` reads their shapes alone (with `Level.SKIP`).
        file: A local file that holds `data` and that no one else changes: its tensors are mapped instead of copied.

    Raises:
        CheckpointDamagedError: The bytes are not the committed ones.
        CheckpointIncompatibleError: They are not a checkpoint of a known kind and version.
    """
    check_size(len(data), path, record)
    if level is not Level.SKIP and record is not None:
        check_digest(data, path, record)
    try:
        members = archive.members(data)
        if level is Level.FULL or record is None:
            archive.check_crcs(data, members)
    except archive.ArchiveError as error:
        raise CheckpointDamagedError(path, f"corrupted: not a valid ZIP archive ({error})") from error
    payload = _tensor_only_load(data, path, map_location, file)
    try:
        payload = migrate(payload)
    except VersionError as error:
        raise CheckpointIncompatibleError(path, f"incompatible: {error}", hint="") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointIncompatibleError(path, f"incompatible: missing required keys or values: {error}") from error
    if level is not Level.SKIP:
        check_schema(payload, path, record, values=level is Level.FULL or record is None)
    return payload


def _tensor_only_load(data: archive.Buffer, path: object, map_location: str, file: Path | None) -> dict[str, Any]:
    """Level 3. `weights_only` admits tensors and plain types; a pickle that would run code is refused."""
    import torch

    require_torch(torch.__version__)
    try:
        source = io.BytesIO(data) if file is None else file
        with typed_os_errors(file) if file else contextlib.nullcontext():
            payload = torch.load(source, weights_only=True, map_location=map_location, mmap=file is not None)
    except StorageError:
        raise
    except Exception as error:  # torch raises whatever the damaged pickle made it meet
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointDamagedError(path, f"corrupted: torch.load failed ({reason[:160]})") from error
    if type(payload) is not dict or not all(type(name) is str for name in payload):
        raise CheckpointIncompatibleError(path, f"incompatible: holds a {type(payload).__name__}, not a dict of names")
    if problem := _tensor_problem(payload, len(data)):
        raise CheckpointDamagedError(path, f"corrupted: {problem}")
    return payload


def _tensor_problem(payload: Payload, size: int) -> str | None:
    """Whether a tensor claims more than the file can hold: a view may repeat one stored number a billion times."""
    import torch

    total = 0
    waiting: list[tuple[Any, int]] = [(payload, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, torch.Tensor):
            if type(value) is not torch.Tensor or value.layout != torch.strided or value.is_quantized:
                return f"holds a {type(value).__name__} of layout {value.layout}"
            total += value.numel() * value.element_size()
            if total > size:
                return f"tensors claim {total:,} bytes in a file of {size:,}"
        elif isinstance(value, dict | list | tuple) and depth < _DEPTH_MAX:
            children = value.values() if isinstance(value, dict) else value
            waiting += ((child, depth + 1) for child in children if not isinstance(child, str | float | int))
        elif not isinstance(value, _PLAIN):
            return f"holds a {type(value).__name__}"
    return None


def require_torch(version: str) -> None:
    """Refuse a torch that a hostile file can make run code even with `weights_only`.

    Raises:
        VirnucError: It is older than 2.6.
    """
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < TORCH_MIN:
        raise VirnucError(
            f"torch {version} is too old to load files safely; {'.'.join(map(str, TORCH_MIN))} or newer is needed",
            hint="pip install --upgrade torch",
        )


def check_schema(payload: Payload, path: object, record: CommitRecord | None, *, values: bool) -> None:
    """Levels 4 and 6: required keys, N ids = N rows, dtypes; with `values` also unique ids and finite numbers.

    Raises:
        CheckpointIncompatibleError: Keys, lengths or dtypes are wrong.
        CheckpointDamagedError: A value is NaN or infinite, or a probability row does not sum to 1.
    """
    kind = find_kind(str(payload.get("kind")))
    if kind is None:
        raise CheckpointIncompatibleError(path, f"incompatible: unknown kind {payload.get('kind')!r}")
    if missing := [name for name in kind.required if name not in payload]:
        raise CheckpointIncompatibleError(path, f"incompatible: missing required keys {', '.join(missing)}")
    if payload["status"] != "complete":
        raise CheckpointIncompatibleError(path, f"incompatible: status is {payload['status']!r}")
    problem = _shape_problem(payload, kind, record)
    if problem is None and values and len(set(payload["ids"])) != len(payload["ids"]):
        problem = "ids are not unique"
    if problem is not None:
        raise CheckpointIncompatibleError(path, f"incompatible: {problem}")
    if values and (problem := _value_problem(payload, kind)) is not None:
        raise CheckpointDamagedError(path, f"corrupted: {problem}")


def _shape_problem(payload: Payload, kind: Kind, record: CommitRecord | None) -> str | None:
    import torch

    rows = len(payload["ids"]) if isinstance(payload["ids"], list) else -1
    for name in ("ids", *kind.text):
        column = payload[name]
        if not isinstance(column, list) or len(column) != rows or not all(type(text) is str for text in column):
            return f"{name} is not a list of {rows} texts"
    for name, (dtypes, dimensions) in kind.tensors.items():
        column = payload[name]
        if not isinstance(column, torch.Tensor) or column.layout != torch.strided or column.ndim != dimensions:
            return f"{name} is not a tensor of {dimensions} dimensions"
        if record is not None and not column.is_contiguous():
            return f"{name} is a view"
        if str(column.dtype).removeprefix("torch.") not in dtypes:
            return f"{name} has dtype {column.dtype}"
        if len(column) != rows:
            return f"{rows} ids but {len(column)} rows of {name}"
    if record is not None:
        if record.kind != payload["kind"]:
            return f"holds {payload['kind']}, the record says {record.kind}"
        if (record.rows, record.dim, record.dtype) != shape_of(payload):
            return f"shape {shape_of(payload)}, the record says {(record.rows, record.dim, record.dtype)}"
    return None


def _value_problem(payload: Payload, kind: Kind) -> str | None:
    import torch

    for name in kind.tensors:
        column = payload[name]
        # aminmax carries NaN and infinity through, and is far cheaper than isfinite().all()
        if column.numel() and column.is_floating_point() and not torch.stack(torch.aminmax(column)).isfinite().all():
            return f"{name} holds NaN or infinite values"
    if kind.probabilities and len(data := payload["data"]):
        if data.shape[1] != 2:
            return f"probabilities have {data.shape[1]} columns, not 2"
        if (data.sum(1) - 1).abs().max() > 1e-5 or data.min() < 0:
            return "probabilities do not sum to 1"
    return None


def shape_of(payload: Payload) -> tuple[int, int, str]:
    """(rows, dim, dtype) of a payload as its record states them; dim 0 and no dtype where there is no `data`."""
    data = payload.get("data")
    if data is None:
        return len(payload["ids"]), 0, ""
    return len(payload["ids"]), int(data.shape[1]), str(data.dtype).removeprefix("torch.")
