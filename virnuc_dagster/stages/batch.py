"""From a sequence file to a batch: stored sequences, frames cut into shards, and a manifest of every input sequence.

`add_sequences` reads and checks the file once and stores its sequences, so that the file itself is not needed again.
`build_batch` cuts them into windows, frames and shards (method.md §1-§3).
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from virnuc_dagster.checkpoints import (
    CheckpointError,
    CheckpointMissingError,
    CheckpointStore,
    CommitRecord,
    Level,
    Payload,
    content_digests,
)
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.keys import batch_checkpoint, batch_key, earlier_batch_key, shard_checkpoint, shard_key
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, SEQUENCES
from virnuc_dagster.stages.records import RecordCache
from virnuc_dagster.stages.staleness import State, compare

#: Raised when the numbers or texts of windows and frames change.
METHOD_VERSION = 1
_SCAN_BASES = 4_000_000


def add_sequences(
    store: CheckpointStore,
    source: Path | BinaryIO,
    name: str,
    *,
    window_length: int,
    shard_size: int,
    replace_damaged: bool = False,
    reuse_content: bool = False,
    known_as: str = "",
    allow_missing_end_mark: bool = False,
) -> tuple[str, CommitRecord]:
    """Read a sequence file and store what it holds as a batch.

    Args:
        store: Where to keep it.
        source: FASTA or FASTQ, plain or compressed: a file or a binary stream.
        name: The file's path as the user gave it, or what to call the batch: its last part begins the batch's key, and
            errors call the file so.
        window_length: Bases a window.
        shard_size: Frames a shard.
        replace_damaged: Check the stored sequences in full, and if they are damaged set them aside and store them anew.
        reuse_content: The same sequences under another name are the batch they already are, not a new one.
        known_as: The batch that this file was before its stored sequences were lost; it keeps its key.
        allow_missing_end_mark: Read a BGZF file without its end mark, which is probably truncated.

    Returns:
        The batch key and the record of the stored sequences. Adding the same content again changes nothing.

    Raises:
        InputError: The file is not a readable sequence file; nothing is stored.
        CheckpointError: The sequences stored earlier are damaged.
    """
    from virnuc_dagster.sequences.reader import read_sequences

    ids, descriptions, sequences = [], [], []
    for record in read_sequences(source, name=name, allow_missing_end_mark=allow_missing_end_mark):
        ids.append(record.id)
        descriptions.append(record.description)
        sequences.append(record.sequence.decode("ascii"))
    payload: Payload = {"ids": ids, "description": descriptions, "sequence": sequences}
    digests = content_digests(payload)
    content = hashlib.sha256((digests["sequence"] + digests["description"]).encode()).hexdigest()
    batch = batch_key(name, content, window_length, shard_size)
    earlier = earlier_batch_key(name, content, window_length, shard_size)
    if earlier != batch and _is_known(store, earlier):
        batch = earlier
    provenance = {"inputs": {"content": content}, "window_length": window_length, "shard_size": shard_size}
    if reuse_content:
        lost = known_as if known_as and _is_same_content(known_as, batch) else ""
        batch = _batch_with(store, batch, provenance) or lost or batch
    return batch, _stored(store, batch, payload, provenance, replace_damaged=replace_damaged)


def _stored(
    store: CheckpointStore, batch: str, payload: Payload, provenance: Mapping[str, Any], *, replace_damaged: bool
) -> CommitRecord:
    """The record of a batch's sequences, which are stored unless they are there already."""
    key = batch_checkpoint(SEQUENCES, batch)
    try:
        found = compare(key, provenance, store).or_raise()
        if found.record and replace_damaged:
            store.load(key, Level.FULL)
        if found.current:
            return found.current
    except CheckpointError as error:
        if not replace_damaged:
            raise
        store.quarantine(key, error.reason)
    return store.save(key, payload, provenance)


def _is_known(store: CheckpointStore, batch: str) -> bool:
    """Whether sequences were added under this key, be they damaged since."""
    return compare(batch_checkpoint(SEQUENCES, batch), {}, store).state is not State.MISSING


def _is_same_content(one: str, other: str) -> bool:
    """Whether two keys stand for the same content and cutting: the last part of each says it."""
    return one.rpartition("-")[2] == other.rpartition("-")[2]


def _batch_with(store: CheckpointStore, batch: str, provenance: Mapping[str, Any]) -> str | None:
    """A stored batch of the same content and cutting."""
    for key in store.list(SEQUENCES):
        if _is_same_content(key.batch, batch) and compare(key, provenance, store).current:
            return key.batch
    return None


def batch_provenance(store: CheckpointStore, batch: str) -> dict[str, Any]:
    """What decides the frames of a batch.

    Raises:
        CheckpointMissingError: No such batch was added.
    """
    record = store.record(batch_checkpoint(SEQUENCES, batch))
    if record is None:
        raise CheckpointMissingError(batch, "no sequences were added under this batch key")
    return {"method_version": METHOD_VERSION, **record.provenance}


def current_manifest(store: CheckpointStore, batch: str) -> Payload | None:
    """The stored manifest, if it and the frames of every shard it names are current; else None.

    Raises:
        CheckpointError: The manifest or a shard's frames are damaged.
    """
    wanted = batch_provenance(store, batch)
    if not compare(batch_checkpoint(BATCH, batch), wanted, store).or_raise().current:
        return None
    manifest = store.load(batch_checkpoint(BATCH, batch))
    keys = [shard_checkpoint(FRAMES, shard) for shard in manifest["shards"]]
    records = RecordCache(store, keys)
    return manifest if all(compare(key, wanted, records).or_raise().current for key in keys) else None


def build_batch(store: CheckpointStore, batch: str, progress: Progress, writer: Mapping[str, str]) -> Payload:
    """Cut a batch into frames, commit them shard by shard, and account for every input sequence.

    Returns:
        The manifest: per sequence, in input order, `length`, `windows`, `open_windows` (with a frame), `frames` and
        `ambiguous` (frames with an ambiguous codon); and the shards with their row counts.

    Raises:
        CheckpointError: The stored sequences are damaged.
    """
    import torch

    wanted = batch_provenance(store, batch)
    source = store.load(batch_checkpoint(SEQUENCES, batch))
    counts: dict[str, list[int]] = {name: [] for name in ("windows", "open_windows", "frames", "ambiguous")}
    shards: list[str] = []
    shard_rows: list[int] = []
    progress.start(BATCH, 0, len(source["ids"]))
    columns = _scan(source, int(wanted["window_length"]), counts, progress)
    for number, shard in enumerate(_cut(columns, int(wanted["shard_size"])), start=1):
        key = shard_checkpoint(FRAMES, shard_key(batch, number))
        if not compare(key, wanted, store).or_raise().current:
            store.save(key, shard, wanted, writer)
        shards.append(key.shard)
        shard_rows.append(len(shard["ids"]))
    if sum(shard_rows) != sum(counts["frames"]):
        raise AssertionError(f"{batch}: {sum(counts['frames'])} frames found, {sum(shard_rows)} in shards")
    lengths = [len(sequence) for sequence in source["sequence"]]
    return {
        "ids": source["ids"],
        "length": torch.tensor(lengths, dtype=torch.int64),
        **{name: torch.tensor(values, dtype=torch.int64) for name, values in counts.items()},
        "shards": shards,
        "shard_rows": shard_rows,
        "window_length": int(wanted["window_length"]),
        "shard_size": int(wanted["shard_size"]),
    }


def _scan(source: Payload, window_length: int, counts: dict[str, list[int]], progress: Progress) -> Iterator[Payload]:
    """Frames of all sequences in input order, a few million bases at a time; fills `counts` by the way."""
    import numpy as np

    from virnuc_dagster.sequences.translation import frame_id, open_frames

    for first, last in _slices([len(sequence) for sequence in source["sequence"]]):
        ids = source["ids"][first:last]
        table = open_frames([sequence.encode() for sequence in source["sequence"][first:last]], window_length)
        n = last - first
        opened = np.unique(np.stack([table.sequence, table.window]), axis=1)[0]
        counts["windows"] += table.windows.tolist()
        counts["open_windows"] += np.bincount(opened, minlength=n).tolist()
        counts["frames"] += np.bincount(table.sequence, minlength=n).tolist()
        counts["ambiguous"] += np.bincount(table.sequence[table.ambiguous], minlength=n).tolist()
        progress.advance(BATCH, n)
        places = zip(table.sequence.tolist(), table.window.tolist(), table.frame.tolist(), strict=True)
        yield {
            "ids": [frame_id(ids[sequence], window, frame) for sequence, window, frame in places],
            "nucleotide": table.nucleotide,
            "protein": table.protein,
        }


def _slices(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of sequences of about `_SCAN_BASES` bases each."""
    first = bases = 0
    for index, length in enumerate(lengths):
        bases += length
        if bases >= _SCAN_BASES:
            yield first, index + 1
            first, bases = index + 1, 0
    if first < len(lengths):
        yield first, len(lengths)


def _cut(columns: Iterator[Payload], size: int) -> Iterator[Payload]:
    """Regroup columns of any length into shards of `size` rows; the last may be shorter."""
    held: Payload = {"ids": [], "nucleotide": [], "protein": []}
    for part in columns:
        for name, column in held.items():
            column.extend(part[name])
        while len(held["ids"]) >= size:
            yield {name: column[:size] for name, column in held.items()}
            for column in held.values():
                del column[:size]
    if held["ids"]:
        yield held
