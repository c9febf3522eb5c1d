"""The report of a batch: manifest + predictions -> verdicts and result files. An incomplete batch says so."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnuc_dagster import __version__
from virnuc_dagster.checkpoints import CheckpointKey, CheckpointStore, Level, Payload, differences
from virnuc_dagster.checkpoints.files import make_folder, write_atomic
from virnuc_dagster.classify.consensus import (
    FrameScore,
    SequenceScore,
    Source,
    WindowScore,
    score_sequence,
    score_windows,
    with_fallback,
)
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.report import html, paths, tables
from virnuc_dagster.sequences.windows import window_spans
from virnuc_dagster.stages.batch import BATCH, FRAMES, SEQUENCES
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.shards import IMPORTED, PREDICTIONS, PredictionStage

if TYPE_CHECKING:
    from virnuc_dagster.classify.fallback import FallbackModel
    from virnuc_dagster.models.spec import BundleSpec

_FALLBACK_WINDOWS = 4_096
"""Windows (or sequences) whose fallback scores are computed at once."""


@dataclass(frozen=True)
class Report:
    """What a report holds: its folder, the counts, and the verdict of every sequence in input order."""

    folder: Path
    summary: dict[str, Any]
    sequences: list[SequenceScore]
    missing_shards: list[str]


def build_report(store: CheckpointStore, batch: str, stage: PredictionStage, folder: Path) -> Report:
    """Write all result files of a batch; each is replaced atomically.

    Only predictions with the wanted provenance count: a shard whose stored result is missing, stale or made with
    another bundle leaves its sequences `incomplete`.

    Raises:
        CheckpointError: The manifest or a prediction is damaged.
    """
    level = stage.options.level
    manifest = store.load(batch_checkpoint(BATCH, batch), level)
    source = store.load(batch_checkpoint(SEQUENCES, batch), level)
    if manifest["ids"] != source["ids"]:
        raise AssertionError(f"{batch}: the manifest does not list the stored sequences")
    shards = _current_shards(store, stage, manifest)
    frames = list(_frames(store, manifest, shards, level))
    windows = _windows(manifest, frames)
    if fallback := stage.bundle.load_fallback():
        windows = score_without_frames(windows, source["sequence"], fallback)
    sequences = list(_sequences(manifest, windows, stage.bundle.spec))
    scored = [frame for frame in frames if frame is not None]
    summary = tables.summary(batch, sequences, len(frames), len(scored))
    facts = _facts(store, batch, stage, manifest)
    if imported := _imported_shards(store, stage, shards):
        summary["imported_shards"] = len(imported)
        facts["imported"] = f"{len(imported):,} of {len(shards):,} shards hold embeddings computed by another program"
    files = {
        paths.SEQUENCES: tables.sequences_tsv(sequences),
        paths.WINDOWS: tables.windows_tsv(sequences),
        paths.FRAMES_ORIGINAL: tables.prediction_results(scored),
        paths.WINDOWS_ORIGINAL: tables.highest_score(sequences),
        paths.VIRAL_FASTA: tables.viral_fasta(sequences, source["description"], source["sequence"]),
        paths.SUMMARY: _json(summary),
        paths.HTML: html.page(summary, sequences, facts),
        paths.PROVENANCE: _json(_provenance(store, batch, stage, shards)),
    }
    make_folder(folder)
    for name, data in files.items():
        write_atomic(folder / name, data)
    return Report(folder, summary, sequences, [shard for shard, current in shards.items() if not current])


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _current_shards(store: CheckpointStore, stage: PredictionStage, manifest: Payload) -> dict[str, bool]:
    """Shard -> whether its stored predictions are the wanted ones."""
    current = {}
    for shard in manifest["shards"]:
        try:
            record = store.record(shard_checkpoint(PREDICTIONS, shard))
            current[shard] = record is not None and not differences(record.provenance, stage.wanted(shard))
        except VirnucError:
            current[shard] = False  # an input is missing, stale or damaged: that stage's own run says so
    return current


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


def _windows(manifest: Payload, frames: list[FrameScore | None]) -> Iterator[list[WindowScore]]:
    """The windows of each sequence, with the scores of their frames.

    A window could hold a missing frame: while one is missing, no window of the sequence is scored.
    """
    position = 0
    counts = zip(manifest["ids"], manifest["length"].tolist(), manifest["frames"].tolist(), strict=True)
    for sequence_id, length, count in counts:
        mine = [frame for frame in frames[position : position + count] if frame is not None]
        position += count
        spans = window_spans(length, manifest["window_length"]).tolist()
        yield list(score_windows(sequence_id, spans, mine if len(mine) == count else None))
    if position != len(frames):
        raise AssertionError(f"{len(frames)} frames, {position} of them belong to a sequence")


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
    manifest: Payload, windows: Iterable[list[WindowScore]], bundle: "BundleSpec"
) -> Iterator[SequenceScore]:
    """The verdict of each sequence; one of which a window is missing is incomplete."""
    for sequence_id, length, mine in zip(manifest["ids"], manifest["length"].tolist(), windows, strict=True):
        yield score_sequence(
            sequence_id,
            length,
            mine,
            viral=bundle.thresholds.viral,
            non_viral=bundle.thresholds.non_viral,
            scored_share=bundle.thresholds.scored_share,
            roll_up=bundle.roll_up,
            complete=all(window.source is not Source.MISSING for window in mine),
        )


def _facts(store: CheckpointStore, batch: str, stage: PredictionStage, manifest: Payload) -> dict[str, str]:
    source = store.record(batch_checkpoint(SEQUENCES, batch))
    spec = stage.bundle.spec
    viral, non_viral, share = spec.thresholds.viral, spec.thresholds.non_viral, spec.thresholds.scored_share
    return {
        "content of the input (sha256)": source.provenance["inputs"]["content"] if source else "",
        "bundle": spec.name,
        "verdicts": f"viral from {viral}, non-viral up to {non_viral}; uncertain under {share:.0%} scored windows",
        "roll-up of window scores": spec.roll_up,
        **({"fallback (sha256)": spec.fallback.weights.sha256} if spec.fallback else {}),
        "about the bundle": spec.description,
        "precision": stage.options.precision,
        "window length": f"{manifest['window_length']} bases",
        "shard size": f"{manifest['shard_size']:,} frames",
        "virnuc-dagster": __version__,
    }


def _imported_shards(store: CheckpointStore, stage: PredictionStage, shards: dict[str, bool]) -> list[str]:
    """Shards of the report whose embeddings were imported."""
    keys = (shard_checkpoint(part.name, shard) for shard, current in shards.items() if current for part in stage.inputs)
    records = ((key.shard, store.record(key)) for key in keys)
    return sorted({shard for shard, record in records if record and IMPORTED in record.provenance})


def _provenance(store: CheckpointStore, batch: str, stage: PredictionStage, shards: dict[str, bool]) -> dict[str, Any]:
    """Digests and provenance of every checkpoint behind the report."""
    keys = [batch_checkpoint(SEQUENCES, batch), batch_checkpoint(BATCH, batch)]
    names = [FRAMES, *(part.name for part in stage.inputs), PREDICTIONS]
    keys += [CheckpointKey(name, batch, shard) for shard, current in shards.items() if current for name in names]
    checkpoints = {}
    for key in keys:
        record = store.record(key)
        if record is not None:
            checkpoints[str(key)] = {"sha256": record.sha256, "created_at": record.created_at} | record.provenance
    return {
        "batch": batch,
        "bundle": stage.bundle.spec.name,
        "roll_up": stage.bundle.spec.roll_up,
        **stage.bundle.provenance("fallback"),
        "precision": stage.options.precision,
        "missing_shards": [shard for shard, current in shards.items() if not current],
        "checkpoints": checkpoints,
    }
