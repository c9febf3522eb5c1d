"""The data file and its commit record: keys, serialisation, digests.

A data file is a `torch.save` ZIP of one dict of plain types and tensors. Equal content gives equal bytes, so that a
file can be named by its digest. The commit record is a small JSON document beside it.
"""

import builtins
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, get_origin

from virnuc_dagster.checkpoints.kinds import find_kind
from virnuc_dagster.checkpoints.versions import CURRENT_VERSION, RECORD_VERSION, lift_record

if TYPE_CHECKING:
    import torch

#: What a checkpoint holds: a dict of plain types and tensors, see `kinds.KINDS`.
Payload: TypeAlias = dict[str, Any]

RECORD_FORMAT = "virnuc-checkpoint"
RECORD_BYTES_MAX = 4096
RECORD_SUFFIX = ".pt.done"
QUARANTINE = ".quarantine"
FAILED_LIST = "failed_checkpoints.txt"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class CheckpointKey:
    """Where a checkpoint belongs: stage, batch, shard. Each part is `[a-z0-9_-]`, so a key is a safe path."""

    stage: str
    batch: str
    shard: str

    def __post_init__(self) -> None:
        for part in (self.stage, self.batch, self.shard):
            if not _NAME.fullmatch(part):
                raise ValueError(f"not a checkpoint key: {part!r}; use at most 200 of a-z 0-9 _ -")

    def __str__(self) -> str:
        return f"{self.stage}/{self.batch}/{self.shard}"


@dataclass(frozen=True)
class CommitRecord:
    """The JSON document whose appearance commits a checkpoint.

    A new field goes with a raised `RECORD_VERSION` and a function in `versions.RECORD_MIGRATIONS`.

    Attributes:
        kind: Stage of the checkpoint.
        file: Name of the data file, in the same folder.
        bytes: Size of the data file.
        sha256: Digest of the whole data file, hex.
        rows: N.
        dim: Columns of `data`; 0 for kinds that have none.
        dtype: Dtype of `data`; empty for kinds that have none.
        content: Column -> digest of ids and that column's values (see `content_digests`).
        provenance: Everything that decides the numbers; compared field by field on reuse.
        writer: Who wrote it: package, torch, host, run id. Never compared.
        previous: Data files of the generations still kept, newest first.
        created_at: UTC, ISO 8601.
        version: Of the record; higher than `RECORD_VERSION` if a newer program wrote it.
    """

    kind: str
    file: str
    bytes: int
    sha256: str
    rows: int
    dim: int
    dtype: str
    content: dict[str, str]
    provenance: dict[str, Any]
    writer: dict[str, str]
    previous: tuple[str, ...] = ()
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    version: str = RECORD_VERSION
    format: str = RECORD_FORMAT

    @property
    def newer(self) -> bool:
        """Whether a newer program wrote it: what else it says would be lost if it were written again."""
        return self.version != type(self).version

    def to_json(self) -> builtins.bytes:
        """The record as it lies on disk.

        Raises:
            ValueError: If it would exceed 4 KiB (provenance is meant to be digests, not content).
        """
        values = asdict(self) | {"check": _UNCHECKED.decode()}
        text = json.dumps(values, indent=1, sort_keys=True).encode() + b"\n"
        text = text.replace(_UNCHECKED, _check_of(text), 1)
        if len(text) > RECORD_BYTES_MAX:
            raise ValueError(f"commit record of {len(text)} bytes exceeds {RECORD_BYTES_MAX}")
        return text

    @classmethod
    def from_json(cls, text: builtins.bytes) -> "CommitRecord":
        """Parse a record strictly: its bytes must be exactly those that were written.

        A record of an older version is lifted to this one. Of one with a newer minor, unknown fields are left out.

        Raises:
            ValueError: If a bit was flipped, or it is no record, lacks a field, has one of the wrong type, or points
                elsewhere.
            VersionError: Its version is unreadable, or no migration leads from it.
        """
        if len(text) > RECORD_BYTES_MAX:
            raise ValueError(f"record exceeds {RECORD_BYTES_MAX} bytes")
        try:
            values = json.loads(text)
        except RecursionError as error:
            raise ValueError("record is nested too deeply") from error
        if not isinstance(values, dict) or values.get("format") != RECORD_FORMAT:
            raise ValueError("not a commit record")
        check = str(values.get("check")).encode()
        if (
            len(check) != len(_UNCHECKED)
            or text.count(check) != 1
            or check != _check_of(text.replace(check, _UNCHECKED))
        ):
            raise ValueError("its check digest differs: the record is not as it was written")
        values = lift_record(values, cls.version)
        types = _types(cls)  # type: ignore[arg-type] # mypy: a class of dataclasses would not be hashable
        if missing := types.keys() - values.keys():
            raise ValueError(f"record lacks {', '.join(sorted(missing))}")
        for name, kind in types.items():
            if type(values[name]) is not kind:
                raise ValueError(f"record field {name} is not a {kind.__name__}")
        previous = values["previous"]
        if not all(isinstance(name, str) for name in previous):
            raise ValueError("record field previous is not a list of names")
        for name in (values["file"], *previous):
            if not re.fullmatch(r"\w[\w.-]{0,199}\.[0-9a-f]{16}\.pt", name, re.ASCII):
                raise ValueError(f"record points to {name!r}")
        return cls(**{name: values[name] for name in types} | {"previous": tuple(previous)})


@cache
def _types(record: type[CommitRecord]) -> dict[str, type]:
    """Field -> its type in JSON."""
    types: dict[str, Any] = {f.name: get_origin(f.type) or f.type for f in fields(record)}
    return {name: list if kind is tuple else kind for name, kind in types.items()}


#: Stands in a record's text for its check digest while that is taken.
_UNCHECKED = b"#" * 32


def _check_of(text: bytes) -> bytes:
    """Digest of a record's whole text, so that any flipped bit in it is found."""
    return hashlib.sha256(text).hexdigest()[: len(_UNCHECKED)].encode()


class Sink:
    """A file that `torch.save` writes into: digests and counts what passes, and keeps the first error.

    An exception must not pass through torch's writer, which would hide it; `close` raises it.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: builtins.bytes) -> int:
        """Take some bytes; without a file they are only counted."""
        self.bytes += len(data)
        if self.file is not None and self.error is None:
            self.digest.update(data)
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the file's owner flushes and syncs it."""

    def close(self) -> None:
        """Raise the error that was met, if any."""
        if self.error is not None:
            raise self.error


def serialise(kind: str, payload: Payload, sink: Sink) -> None:
    """Write the data file of a payload; equal content gives equal bytes.

    Keys are written in the order of the kind, tensors contiguous with exactly their own storage (a view would save
    all of its base), and equal strings as one object, because pickle writes a repeated object as a reference.

    Raises:
        KeyError: If the payload lacks a key of its kind.
        OSError: If the sink's file refused.
    """
    import torch

    seen: dict[str, str] = {}

    def canonical(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _own_storage(value)
        if isinstance(value, str):
            return seen.setdefault(value, value)
        return [canonical(item) for item in value] if isinstance(value, list) else value

    whole = {**payload, "version": CURRENT_VERSION, "status": "complete", "kind": kind}
    held = find_kind(kind)
    assert held is not None, "the schema of a payload is checked before it is written"
    names = [*held.required, *(name for name in held.optional if name in whole)]
    torch.save({canonical(name): canonical(whole[name]) for name in names}, sink)  # type: ignore[arg-type]
    sink.close()


def _own_storage(tensor: "torch.Tensor") -> "torch.Tensor":
    """The tensor on the CPU, contiguous, with a storage of exactly its size; not copied if it is so already."""
    tensor = tensor.detach().to("cpu").contiguous()
    exact = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if exact else tensor.clone()


def _text_digest(texts: Iterable[str]) -> bytes:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()


def _tensor_digest(tensor: "torch.Tensor") -> bytes:
    import torch

    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    raw = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(header + b"\0")
    digest.update(raw.data)
    return digest.digest()


def content_digests(payload: Payload) -> dict[str, str]:
    """Digest of the *content* of each column, with the ids it belongs to.

    The bytes of a `.pt` may change with the torch version; these digests do not. They are what the next stage records
    as its input.

    Returns:
        Column name -> sha256 hex over (digest of length-prefixed ids, digest of the column).
    """
    ids = _text_digest(payload["ids"])
    digests = {}
    for name, column in payload.items():
        if isinstance(column, list):
            if name != "ids":
                digests[name] = hashlib.sha256(ids + _text_digest(map(str, column))).hexdigest()
        elif _is_tensor(column):
            digests[name] = hashlib.sha256(ids + _tensor_digest(column)).hexdigest()
    return digests


def _is_tensor(value: object) -> bool:
    """Asked without importing torch, which takes seconds: whoever made a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
