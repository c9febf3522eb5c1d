"""The report of a batch: manifest + predictions -> verdicts and result files. An incomplete batch says so."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnuc_dagster.checkpoints import CheckpointStore, Level, Payload
from virnuc_dagster.classify.consensus import (
    FrameScore,
    SequenceScore,
    Source,
    Verdict,
    WindowScore,
    score_sequence,
    score_windows,
    with_fallback,
)
from virnuc_dagster.classify.roll_up import ROLL_UPS
from virnuc_dagster.files import make_folder, write_atomic
from virnuc_dagster.report import multiqc, paths
from virnuc_dagster.report.counts import BatchCounts
from virnuc_dagster.report.outputs import Output, write_together
from virnuc_dagster.report.page import PageContent, page
from virnuc_dagster.report.quality import warnings
from virnuc_dagster.report.rows import PageRows
from virnuc_dagster.report.tables import OriginalWindows, Tables
from virnuc_dagster.sequences.translation import KnownShares, known_shares, unknown_bases
from virnuc_dagster.sequences.windows import window_spans
from virnuc_dagster.stages.embedding_sample import sample_map
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, PREDICTIONS, SEQUENCES
from virnuc_dagster.stages.records import RecordCache
from virnuc_dagster.stages.report_facts import imported_shards, report_facts, report_keys, report_provenance
from virnuc_dagster.stages.shards import PredictionStage
from virnuc_dagster.stages.staleness import State, state_of
from virnuc_dagster.stages.standing_report import provenance_text, seal_report

if TYPE_CHECKING:
    from virnuc_dagster.classify.fallback import FallbackModel
    from virnuc_dagster.models.spec import BundleSpec

_FALLBACK_WINDOWS = 4_096
"""Windows (or sequences) whose fallback scores are computed at once."""


@dataclass(frozen=True)
class Report:
    """What was written: the folder, the counts, and how many sequences have a score in each twentieth of 0..1."""

    folder: Path
    summary: dict[str, Any]
    score_bins: list[int]


def build_report(store: CheckpointStore, batch: str, stage: PredictionStage, folder: Path) -> Report:
    """Write all result files of a batch, each replaced atomically, in one pass over its sequences.

    Only current predictions count: a shard whose stored result is missing, damaged or stale, or of which an input is,
    leaves its sequences `incomplete`. One shard is in memory at a time, and the batch's sequences.

    Raises:
        CheckpointError: The manifest or a prediction is damaged.
        NoSpaceError, StorageError: The folder cannot be written.
    """
    level, spec = stage.options.level, stage.bundle.spec
    manifest = store.load(batch_checkpoint(BATCH, batch), level)
    source = store.load(batch_checkpoint(SEQUENCES, batch), level)
    if manifest["ids"] != source["ids"]:
        raise AssertionError(f"{batch}: the manifest does not list the stored sequences")
    records = RecordCache(store, report_keys(batch, stage, manifest["shards"]))
    shards = {shard: state_of(stage, shard, records).state is State.CURRENT for shard in manifest["shards"]}
    make_folder(folder)
    gathered = _write_tables(store, batch, stage, manifest, source, shards, folder)
    del source  # the largest thing in memory, and no longer needed
    imported = imported_shards(records, stage, shards)
    summary = gathered.counts.summary() | ({"imported_shards": len(imported)} if imported else {})
    current = [shard for shard, is_current in shards.items() if is_current]
    found = sample_map(store, manifest, current, [of.name for of in stage.inputs], level)
    content = PageContent(
        summary,
        gathered.rows,
        bins=gathered.counts.bins,
        warnings=[*warnings(gathered.counts), *found.warnings],
        facts=report_facts(records, batch, stage, manifest, shards, imported),
        window_length=manifest["window_length"],
        thresholds=spec.thresholds,
        roll_up=(ROLL_UPS[spec.roll_up].__doc__ or spec.roll_up).partition("\n")[0],
        embeddings=found.map,
        verdicts=gathered.verdicts,
    )
    for name, data in {
        paths.SUMMARY: _json(summary),
        paths.MULTIQC_VERDICTS: _json(multiqc.verdicts(summary)),
        paths.MULTIQC_COLUMNS: _json(multiqc.columns(summary)),
        paths.HTML: page(content),
        paths.PROVENANCE: provenance_text(report_provenance(records, batch, stage, shards)),
    }.items():
        write_atomic(folder / name, data)
    if not found.warnings:  # what could not be read may be there next time
        seal_report(folder, stage)
    return Report(folder, summary, [sum(bins) for bins in zip(*gathered.counts.bins.values(), strict=True)])


@dataclass
class _Gathered:
    """What one pass over the sequences leaves in memory."""

    counts: BatchCounts
    rows: PageRows = field(default_factory=PageRows)
    verdicts: list[Verdict] = field(default_factory=list)


def _write_tables(
    store: CheckpointStore,
    batch: str,
    stage: PredictionStage,
    manifest: Payload,
    source: Payload,
    shards: dict[str, bool],
    folder: Path,
) -> _Gathered:
    """The files with a row a sequence, window or frame."""
    level, spec = stage.options.level, stage.bundle.spec
    counts = _start_counts(batch, manifest, shards)
    gathered, original = _Gathered(counts), OriginalWindows()

    def fill(outputs: Mapping[str, Output]) -> None:
        tables = Tables(outputs)
        unknown = [unknown_bases(text.encode()) for text in source["sequence"]]
        known = _known(manifest, source["sequence"], unknown)
        windows = _windows(manifest, _frames(store, manifest, shards, level), known, tables.add_frames)
        if fallback := stage.bundle.load_fallback():
            windows = score_without_frames(windows, source["sequence"], fallback)
        texts = zip(source["description"], source["sequence"], strict=True)
        scored = _sequences(manifest, windows, unknown, spec)
        for sequence, (description, text) in zip(scored, texts, strict=True):
            tables.add_sequence(sequence, description, text)
            original.add(sequence)
            counts.add(sequence)
            gathered.rows.add(sequence)
            gathered.verdicts.append(sequence.verdict)

    write_together({name: folder / name for name in paths.TABLES}, fill)
    write_atomic(folder / paths.WINDOWS_ORIGINAL, original.text().encode())
    return gathered


def _start_counts(batch: str, manifest: Payload, shards: dict[str, bool]) -> BatchCounts:
    """Counts with what the manifest knows of frames."""
    counts = BatchCounts(batch, manifest["window_length"])
    counts.frames = sum(manifest["shard_rows"])
    rows = zip(manifest["shards"], manifest["shard_rows"], strict=True)
    counts.scored_frames = sum(count for shard, count in rows if shards[shard])
    counts.ambiguous_frames = int(manifest["ambiguous"].sum())
    return counts


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _frames(
    store: CheckpointStore, manifest: Payload, shards: dict[str, bool], level: Level
) -> Iterator[FrameScore | None]:
    """Every frame of the batch in input order; None for each frame whose shard has no current result."""
    for shard, rows in zip(manifest["shards"], manifest["shard_rows"], strict=True):
        if not shards[shard]:
            yield from repeat(None, rows)
            continue
        payload = store.load(shard_checkpoint(PREDICTIONS, shard), level)
        if len(payload["ids"]) != rows:
            raise AssertionError(f"{shard}: {rows} frames in the manifest, {len(payload['ids'])} predictions")
        for frame, (others, virus) in zip(payload["ids"], payload["data"].tolist(), strict=True):
            yield FrameScore(frame, others, virus)


def _known(manifest: Payload, texts: Iterable[str], unknown: Iterable[int]) -> Iterator[KnownShares | None]:
    """What is known of each sequence's windows; None where every letter is."""
    for text, count in zip(texts, unknown, strict=True):
        spans = window_spans(len(text), manifest["window_length"])
        yield known_shares(text.encode(), spans) if count else None


def _windows(
    manifest: Payload,
    frames: Iterator[FrameScore | None],
    known: Iterable[KnownShares | None],
    on_frames: Callable[[str, list[list[int]], list[FrameScore], KnownShares | None], None],
) -> Iterator[list[WindowScore]]:
    """The windows of each sequence, with the scores of their frames; `on_frames` is told of these before.

    A window could hold a missing frame: while one is missing, no window of the sequence is scored.
    """
    counts = zip(manifest["ids"], manifest["length"].tolist(), manifest["frames"].tolist(), known, strict=True)
    for sequence_id, length, count, shares in counts:
        mine = [frame for frame in islice(frames, count) if frame is not None]
        spans = window_spans(length, manifest["window_length"]).tolist()
        on_frames(sequence_id, spans, mine, shares)
        yield list(score_windows(sequence_id, spans, mine if len(mine) == count else None, shares))
    if next(frames, frames) is not frames:
        raise AssertionError("more frames than the sequences have")


def score_without_frames(
    windows: Iterable[list[WindowScore]], texts: Iterable[str], model: "FallbackModel"
) -> Iterator[list[WindowScore]]:
    """Give windows without an open frame the fallback's score, a few thousand of them at a time.

    Args:
        windows: Windows of each sequence.
        texts: Bases of each sequence.
        model: The bundle's fallback.
    """
    held: list[list[WindowScore]] = []
    wanted: list[str] = []
    for mine, text in zip(windows, texts, strict=True):
        held.append(mine)
        wanted += [text[window.start : window.end] for window in mine if window.source is Source.NONE]
        if len(wanted) >= _FALLBACK_WINDOWS or len(held) >= _FALLBACK_WINDOWS:
            yield from _scored(held, wanted, model)
            held, wanted = [], []
    yield from _scored(held, wanted, model)


def _scored(held: list[list[WindowScore]], texts: list[str], model: "FallbackModel") -> Iterator[list[WindowScore]]:
    scores = iter(model.score(texts).tolist())
    for mine in held:
        yield [with_fallback(w, next(scores)) if w.source is Source.NONE else w for w in mine]


def _sequences(
    manifest: Payload, windows: Iterable[list[WindowScore]], unknown: Iterable[int], bundle: "BundleSpec"
) -> Iterator[SequenceScore]:
    """The verdict of each sequence; one of which a window is missing is incomplete."""
    columns = zip(manifest["ids"], manifest["length"].tolist(), windows, unknown, strict=True)
    for sequence_id, length, mine, count in columns:
        yield score_sequence(
            sequence_id,
            length,
            mine,
            viral=bundle.thresholds.viral,
            non_viral=bundle.thresholds.non_viral,
            scored_share=bundle.thresholds.scored_share,
            known_share=bundle.thresholds.known_share,
            known_bases=bundle.thresholds.known_bases,
            roll_up=bundle.roll_up,
            complete=all(window.source is not Source.MISSING for window in mine),
            unknown_bases=count,
        )
