"""What an input comes to: shards, bytes, events, time. Arithmetic only, for `virnuc plan` and docs/scaling.md.

The constants are measured, each by the command named with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from virnuc_dagster.sequences.sampling import Counts
from virnuc_dagster.stages.pipeline import BATCH, EMBEDDINGS, FRAMES, PREDICTIONS, SEQUENCES, STAGES

#: Partitions of one asset up to which Dagster's documentation recommends to stay; the UI gets slow beyond.
PARTITIONS_MAX = 100_000
#: Inputs of the same size that a home should have room for.
INPUTS_A_HOME = 10
#: Frames a shard that are advised; 10,000 is the default.
SHARD_SIZES = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
#: The largest shard that is advised, in bytes of its widest embedding: about four such are in memory at once.
SHARD_BYTES_MAX = 1_100_000_000

#: What pickle adds to a text, and what ZIP and the commit record add to a checkpoint (tests/planning/test_sizing.py).
TEXT_BYTES, FILE_BYTES = 10, 2_600
_NUMBER_BYTES, _COUNT_BYTES = 4, 8
#: Columns of a manifest with a number a sequence, and what the name and size of a shard take there.
_MANIFEST_COUNTS, _SHARD_NAME_BYTES = 5, 40
#: Rows of the tables of a report besides their ids: two of frames, two of windows; the page is left out.
_FRAME_ROWS_BYTES, _WINDOW_ROWS_BYTES, _PROVENANCE_BYTES = 90, 80, 2_350

#: Events that one run logs of a shard: planned, committed and once more at its end, for three assets; and their bytes
#: in SQLite, which keeps a run's events twice (python bench/scale.py: 35 kB in the index; as much in the run's file).
EVENTS_A_SHARD, DATABASE_BYTES_A_SHARD = 9, 72_000
#: Seconds of a run around the computing of a shard, three assets together (python bench/overhead.py).
OVERHEAD_SECONDS_A_SHARD = 0.07


#: Stage of embeddings -> its columns.
Widths = Mapping[str, int]


@dataclass(frozen=True)
class Advice:
    """A shard size and what it leads to.

    Attributes:
        shard_size: Frames a shard.
        shards: Shards of this input.
        inputs: Inputs of this size that fit into the home before Dagster's limit, this one included.
        fits: Whether the home stays within the limit.
    """

    shard_size: int
    shards: int
    inputs: int
    fits: bool


def shards_of(frames: int, shard_size: int) -> int:
    """Count the shards of a batch."""
    return -(-frames // shard_size)


def bytes_of_stages(counts: Counts, shards: int, widths: Widths) -> dict[str, int]:
    """Compute bytes of each stage's checkpoints, and of the report's tables.

    Args:
        counts: Of the input.
        shards: Its shards.
        widths: Of the bundle.

    Returns:
        Stage -> bytes; `reports` holds at most that much, were every sequence viral. `predict --output` copies it.
    """
    ids = counts.frame_id_letters + TEXT_BYTES * counts.frames
    texts = counts.nucleotides + counts.residues + 2 * TEXT_BYTES * counts.frames
    names = counts.id_letters + TEXT_BYTES * counts.sequences
    found = {
        SEQUENCES: names + counts.bases + counts.header_letters + 2 * TEXT_BYTES * counts.sequences,
        BATCH: names + counts.sequences * _MANIFEST_COUNTS * _COUNT_BYTES + shards * _SHARD_NAME_BYTES,
        FRAMES: ids + texts,
        **{stage: ids + counts.frames * width * _NUMBER_BYTES for stage, width in widths.items()},
        PREDICTIONS: ids + counts.frames * 2 * _NUMBER_BYTES,
    }
    found = {stage: size + FILE_BYTES * (shards if STAGES[stage].of == "shard" else 1) for stage, size in found.items()}
    mean_id = counts.frame_id_letters // max(counts.frames, 1)
    tables = counts.frames * (_FRAME_ROWS_BYTES + 2 * mean_id) + counts.windows * (_WINDOW_ROWS_BYTES + 2 * mean_id)
    return found | {"reports": tables + counts.bases + counts.header_letters + _PROVENANCE_BYTES * shards}


def events_of(shards: int) -> int:
    """Count events in Dagster's database."""
    return EVENTS_A_SHARD * shards


def database_bytes(shards: int) -> int:
    """Estimate growth of Dagster's database in SQLite; Postgres keeps each event once, which is about half."""
    return DATABASE_BYTES_A_SHARD * shards


def advise(frames: int, widths: Widths, *, registered: int, at_least: int = SHARD_SIZES[0]) -> Advice:
    """Advise the least usual shard size with which ten such inputs fit the home: small shards lose less in a crash.

    Args:
        frames: Of the input.
        widths: Of the bundle; a shard of its wider embedding has to fit into memory several times.
        registered: Shards that the home already has.
        at_least: No smaller size.

    Returns:
        The advice; if no size is enough, the largest that memory allows.
    """
    widest = max(widths.values()) * _NUMBER_BYTES
    sizes = [s for s in SHARD_SIZES if s >= at_least and s * widest <= SHARD_BYTES_MAX] or [at_least]
    room = max(PARTITIONS_MAX - registered, 0)
    wanted = next((s for s in sizes if shards_of(frames, s) * INPUTS_A_HOME <= room), sizes[-1])
    shards = shards_of(frames, wanted)
    return Advice(wanted, shards, room // max(shards, 1), shards <= room)


def seconds_of_run(encoders: Sequence[float], shards: int) -> float:
    """Estimate a run's time: its encoders, one after the other, and what the platform takes a shard."""
    return sum(encoders) + OVERHEAD_SECONDS_A_SHARD * shards


@dataclass(frozen=True)
class Scale:
    """One line of docs/scaling.md.

    Attributes:
        counts: What the input comes to.
        advice: Shard size and shards, in a home of its own.
        store_bytes: All checkpoints.
        events: In Dagster's database.
        database_bytes: Its growth, in SQLite.
        overhead_hours: What the platform takes, one run after the other.
        gpu_hours: What the encoders take at the speed assumed of them.
    """

    counts: Counts
    advice: Advice
    store_bytes: int
    events: int
    database_bytes: int
    overhead_hours: float
    gpu_hours: float


#: The published widths, and what a frame of a 500-base window is on average: windows that it takes to find one,
#: bases, residues, letters of its id. Tokens and their number a second are in the table of the encoders.
PUBLISHED = {stage: encoder.typical.dim for stage, encoder in EMBEDDINGS.items() if encoder.typical}
WINDOWS_A_FRAME, NUCLEOTIDES, RESIDUES, ID_LETTERS = 2.4, 495, 165, 25


def at_scale(frames: int, window_length: int = 500) -> Scale:
    """Compute what so many frames come to with the published bundle: one sequence of 5,000 bases in ten windows."""
    windows = round(frames * WINDOWS_A_FRAME)
    counts = Counts(
        sequences=windows // 10,
        bases=windows * window_length,
        header_letters=windows // 10 * ID_LETTERS,
        id_letters=windows // 10 * ID_LETTERS,
        windows=windows,
        frames=frames,
        nucleotides=frames * NUCLEOTIDES,
        residues=frames * RESIDUES,
        frame_id_letters=frames * ID_LETTERS,
    )
    advice = advise(frames, PUBLISHED, registered=0)
    sizes = bytes_of_stages(counts, advice.shards, PUBLISHED)
    published = [encoder.typical for encoder in EMBEDDINGS.values() if encoder.typical]
    seconds = sum(frames * typical.tokens / typical.tokens_per_second for typical in published)
    return Scale(
        counts=counts,
        advice=advice,
        store_bytes=sum(sizes.values()) - sizes["reports"],
        events=events_of(advice.shards),
        database_bytes=database_bytes(advice.shards),
        overhead_hours=OVERHEAD_SECONDS_A_SHARD * advice.shards / 3_600,
        gpu_hours=seconds / 3_600,
    )
