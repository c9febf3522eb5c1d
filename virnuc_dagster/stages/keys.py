"""Names of batches and shards. They are partition keys and, unescaped, file names: only `[a-z0-9_-]`."""

import hashlib
import re
import unicodedata
from pathlib import PurePath

from virnuc_dagster.checkpoints import CheckpointKey

SHARD_SEPARATOR = "__"
_SUFFIXES = re.compile(r"(\.(fa|fna|fasta|fas|ffn|fq|fastq|txt|gz|bz2|xz|zst|zstd))+$", re.IGNORECASE)


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
    digest = hashlib.sha256(f"{content}/{window_length}/{shard_size}".encode()).hexdigest()[:8]
    return f"{slug(name)}-{digest}"


def slug(name: str) -> str:
    """The readable part of a batch key: a file name without its endings, in `[a-z0-9-]`.

    >>> slug("Test_with ORFs.fa.gz")
    'test-with-orfs'
    """
    ascii_name = (
        unicodedata.normalize("NFKD", _SUFFIXES.sub("", PurePath(name).name)).encode("ascii", "ignore").decode()
    )
    return re.sub(r"[^a-z0-9]+", "-", ascii_name.lower()).strip("-")[:60].strip("-") or "batch"


def shard_key(batch: str, number: int) -> str:
    """Key of a batch's shard; `number` counts from 1."""
    return f"{batch}{SHARD_SEPARATOR}{number:04d}"


def batch_of(shard: str) -> str:
    """The batch that a shard key belongs to."""
    return shard.rsplit(SHARD_SEPARATOR, 1)[0]


def shard_checkpoint(stage: str, shard: str) -> CheckpointKey:
    """Where a stage keeps its result of a shard."""
    return CheckpointKey(stage, batch_of(shard), shard)


def batch_checkpoint(stage: str, batch: str) -> CheckpointKey:
    """Where a stage keeps its result of a whole batch."""
    return CheckpointKey(stage, batch, batch)
