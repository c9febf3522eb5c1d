"""Names of batches and shards. They are partition keys and, unescaped, file names: only `[a-z0-9_-]`."""

import hashlib
import re
import shlex
import unicodedata
from pathlib import PurePath

from virnuc_dagster.checkpoints import CheckpointKey
from virnuc_dagster.errors import VirnucError

SHARD_SEPARATOR = "__"
_BATCH = re.compile(r"[a-z0-9_-]{1,200}")
_SHARD = re.compile(r"(?=.{1,200}$)[a-z0-9_-]+__[0-9]+")
_ENDINGS = "fa|fna|fasta|fas|ffn|fq|fastq|txt|gz|bz2|xz|zst|zstd"
_SUFFIXES = re.compile(rf"(\.({_ENDINGS}|bgz))+$", re.IGNORECASE)
#: As of versions to which .bgz was no ending.
_EARLIER_SUFFIXES = re.compile(rf"(\.({_ENDINGS}))+$", re.IGNORECASE)


class ForeignKeyError(VirnucError):
    """A partition that someone added by hand is no batch or shard of this program (field: `key`)."""

    @classmethod
    def of(cls, key: str) -> "ForeignKeyError":
        """The error of a partition key."""
        remove = f"`virnuc batches remove {shlex.quote(batch_of(key))} --yes`"
        return cls(
            f"the partition {key!r} is of no batch", hint=f"take it out of the partitions with {remove}", key=key
        )


def batch_key(name: str, content: str, window_length: int, shard_size: int) -> str:
    """Key of a batch: a readable slug and eight digits that stand for content and cutting.

    >>> batch_key("Lambda phage.fa.gz", "0123", 500, 10_000)
    'lambda-phage-5dfbb2c5'

    Args:
        name: File name or a name given by the user.
        content: Digest of the parsed sequences.
        window_length: Bases a window.
        shard_size: Frames a shard.
    """
    return f"{slug(name)}-{_digest(content, window_length, shard_size)}"


def earlier_batch_key(name: str, content: str, window_length: int, shard_size: int) -> str:
    """Key that an earlier version gave the same batch; mostly the same.

    >>> earlier_batch_key("Lambda phage.fa.bgz", "0123", 500, 10_000)
    'lambda-phage-fa-bgz-5dfbb2c5'
    """
    return f"{_slug(name, _EARLIER_SUFFIXES)}-{_digest(content, window_length, shard_size)}"


def _digest(content: str, window_length: int, shard_size: int) -> str:
    return hashlib.sha256(f"{content}/{window_length}/{shard_size}".encode()).hexdigest()[:8]


def slug(name: str) -> str:
    """The readable part of a batch key: a file name without its endings, in `[a-z0-9-]`.

    >>> slug("Test_with ORFs.fa.bgz")
    'test-with-orfs'
    """
    return _slug(name, _SUFFIXES)


def _slug(name: str, suffixes: re.Pattern[str]) -> str:
    stem = suffixes.sub("", PurePath(name).name)
    ascii_name = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")[:60].strip("-") or "batch"


def shard_key(batch: str, number: int) -> str:
    """Key of a batch's shard; `number` counts from 1."""
    return f"{batch}{SHARD_SEPARATOR}{number:04d}"


def batch_of(shard: str) -> str:
    """The batch that a shard key belongs to."""
    return shard.rsplit(SHARD_SEPARATOR, 1)[0]


def is_batch_key(name: str) -> bool:
    """Whether a name can be that of a batch; a person may add any partition in the UI."""
    return _BATCH.fullmatch(name) is not None


def is_shard_key(name: str) -> bool:
    """Whether a name can be that of a shard."""
    return _SHARD.fullmatch(name) is not None


def shard_checkpoint(stage: str, shard: str) -> CheckpointKey:
    """Where a stage keeps its result of a shard.

    Raises:
        ForeignKeyError: The name cannot be that of a shard.
    """
    return _checkpoint(stage, batch_of(shard), shard)


def batch_checkpoint(stage: str, batch: str) -> CheckpointKey:
    """Where a stage keeps its result of a whole batch.

    Raises:
        ForeignKeyError: The name cannot be that of a batch.
    """
    return _checkpoint(stage, batch, batch)


def _checkpoint(stage: str, batch: str, shard: str) -> CheckpointKey:
    if not (is_batch_key(batch) and is_batch_key(shard)):
        raise ForeignKeyError.of(shard)
    return CheckpointKey(stage, batch, shard)
