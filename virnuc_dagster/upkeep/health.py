"""What must hold of a stored result: is it whole, plausible, of the right frames, and is nothing lost on the way?

Each check returns what it measured beside what it allows.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virnuc_dagster.checkpoints import CheckpointError, CheckpointStore, Level, Payload
from virnuc_dagster.report import paths
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, EMBEDDINGS, FRAMES, PREDICTIONS, SEQUENCES

#: A vector's length may differ from the shard's median by this factor. Encoders end in a layer normalisation, so that
#: pooled vectors have similar lengths; a broken kernel or a zeroed row is off by far more.
NORM_FACTOR = 10.0
#: How far from 1 two probabilities may sum, as in the store's own validation.
SUM_TOLERANCE = 1e-5
_PLAIN_BASES = frozenset("ACGT")
_BASES = frozenset("ACGTRYSWKMBDHVN")
#: Bases at the end of a frame that an encoder of six-base tokens may not see.
_UNSEEN_BASES = 5


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    Attributes:
        passed: Whether all is well.
        reason: What is wrong, naming a frame or a shard; empty if all is well.
        facts: What was measured and what is allowed.
    """

    passed: bool
    reason: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def check_integrity(store: CheckpointStore, stage: str, shard: str) -> tuple[Verdict, Payload | None]:
    """Read a checkpoint at every validation level; hands out the payload if it is whole."""
    key = shard_checkpoint(stage, shard)
    try:
        record = store.record(key)
        payload = store.load(key, Level.FULL)
    except CheckpointError as error:
        return Verdict(False, error.reason, {"error_type": error.error_type, "checkpoint": str(key)}), None
    assert record is not None
    facts = {"bytes": record.bytes, "rows": record.rows, "sha256": record.sha256, "format_version": record.version}
    return Verdict(True, facts=facts), payload


def check_batch_integrity(store: CheckpointStore, batch: str) -> Verdict:
    """Read the stored sequences, the manifest and the frames of every shard at every level."""
    facts = {"checkpoints": 0, "bytes": 0}
    keys = [batch_checkpoint(SEQUENCES, batch), batch_checkpoint(BATCH, batch), *store.list(FRAMES, batch)]
    problems = []
    for key in keys:
        try:
            record = store.record(key)
            store.load(key, Level.FULL)
        except CheckpointError as error:
            problems.append(f"{key}: {error.reason}")
            continue
        facts["checkpoints"] += 1
        facts["bytes"] += record.bytes if record else 0
    return Verdict(not problems, "; ".join(problems[:10]), facts)


def check_embeddings(payload: Payload, texts: Sequence[str]) -> Verdict:
    """Plausible vectors: finite, of similar length, not all equal, and different for different frames.

    Args:
        payload: `ids` and `data` (N, D).
        texts: What each frame's vector was made from, N texts in the same order.
    """
    import torch

    data = payload["data"].float()
    if not len(data):
        return Verdict(True, facts={"rows": 0})
    norms = torch.linalg.vector_norm(data, dim=1)
    low, median, high = (float(value) for value in (norms.min(), norms.median(), norms.max()))
    facts = {
        "rows": len(data), "norm_min": low, "norm_median": median, "norm_max": high,
        "norm_allowed": f"{median / NORM_FACTOR:.4g} to {median * NORM_FACTOR:.4g}",
    }  # fmt: skip
    if not bool(torch.isfinite(norms).all()):
        frame = payload["ids"][int((~torch.isfinite(norms)).nonzero()[0])]
        return Verdict(False, f"{frame}: its vector is not finite", facts)
    if low * NORM_FACTOR < median or high > median * NORM_FACTOR:
        worst = int(norms.argmin() if low * NORM_FACTOR < median else norms.argmax())
        return Verdict(False, f"{payload['ids'][worst]}: its vector has length {float(norms[worst]):.4g}", facts)
    twins = _same_vector_of_different_frames(payload["ids"], data, texts)
    if twins:
        facts["duplicated_vectors"] = len(twins)
        first, second = twins[0]
        return Verdict(False, f"{first} and {second} are different frames with one vector ({len(twins)} such)", facts)
    return Verdict(True, facts=facts)


def _same_vector_of_different_frames(ids: Sequence[str], data: Any, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of frames that differ but share a vector.

    Some may: ambiguous bases are one unknown token, and an encoder that reads several bases a token does not see those
    after the last whole one.
    """
    seen: dict[bytes, int] = {}
    twins = []
    for row, vector in enumerate(data.numpy()):
        text = texts[row]
        first = seen.setdefault(vector.tobytes(), row)
        other = texts[first]
        if not (_same_but_for_the_end(text, other) or _ambiguous(text) or _ambiguous(other)):
            twins.append((ids[first], ids[row]))
    return twins


def _same_but_for_the_end(one: str, other: str) -> bool:
    """Whether two texts are equal, or nucleotides that differ only in their last few bases."""
    if one == other or not set(one) <= _BASES:
        return one == other
    seen = min(len(one), len(other)) - _UNSEEN_BASES
    return seen > 0 and abs(len(one) - len(other)) <= _UNSEEN_BASES and one[:seen] == other[:seen]


def _ambiguous(text: str) -> bool:
    """Whether a nucleotide text holds letters other than A, C, G, T; a protein never does."""
    letters = set(text)
    return letters <= _BASES and not letters <= _PLAIN_BASES


def check_alignment(store: CheckpointStore, shard: str) -> Verdict:
    """The same frames in frames, the embeddings behind the predictions, and these; none missing, none twice."""
    ids: dict[str, list[str]] = {}
    for stage in (FRAMES, *_embeddings_behind(store, shard), PREDICTIONS):
        try:
            ids[stage] = store.load(shard_checkpoint(stage, shard), Level.LOAD)["ids"]
        except CheckpointError as error:
            return Verdict(False, f"{stage}: {error.reason}")
    wanted = set(ids[FRAMES])
    facts = {f"{stage}_rows": len(found) for stage, found in ids.items()}
    for stage, found in ids.items():
        if len(found) != len(set(found)):
            return Verdict(False, f"{stage} holds a frame twice", facts)
        if odd := wanted.symmetric_difference(found):
            return Verdict(False, f"{stage} differs from the frames, e.g. in {min(odd)} ({len(odd)} such)", facts)
    return Verdict(True, facts=facts)


def _embeddings_behind(store: CheckpointStore, shard: str) -> list[str]:
    """The embeddings that a shard's predictions were made of; all there are where no record says so."""
    try:
        record = store.record(shard_checkpoint(PREDICTIONS, shard))
    except CheckpointError:
        record = None
    made_of = record.provenance.get("inputs", EMBEDDINGS) if record else EMBEDDINGS
    return [stage for stage in EMBEDDINGS if stage in made_of]


def check_probabilities(payload: Payload) -> Verdict:
    """Both probabilities of each frame lie in 0..1 and sum to 1."""
    data = payload["data"].double()
    if not len(data):
        return Verdict(True, facts={"rows": 0})
    off = (data.sum(1) - 1).abs()
    facts = {
        "rows": len(data), "largest_deviation_from_1": float(off.max()), "allowed": SUM_TOLERANCE,
        "lowest": float(data.min()), "highest": float(data.max()), "mean_P_virus": float(data[:, 1].mean()),
    }  # fmt: skip
    if bool((off > SUM_TOLERANCE).any()) or float(data.min()) < 0 or float(data.max()) > 1:
        worst = int(off.argmax())
        return Verdict(False, f"{payload['ids'][worst]}: probabilities {data[worst].tolist()}", facts)
    return Verdict(True, facts=facts)


def check_report(store: CheckpointStore, batch: str, folder: Path) -> Verdict:
    """Nothing is lost on the way to the report: every input sequence once, in order, and every frame counted."""
    try:
        manifest = store.load(batch_checkpoint(BATCH, batch), Level.LOAD)
        summary = json.loads((folder / paths.SUMMARY).read_bytes())
        with (folder / paths.SEQUENCES).open(newline="", encoding="utf-8") as file:
            rows = [row["sequence_id"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    except CheckpointError as error:
        return Verdict(False, error.reason)
    except (OSError, ValueError, KeyError) as error:
        return Verdict(False, f"the report cannot be read: {error}")
    frames = sum(manifest["shard_rows"])
    counts = {
        "sequences in the input": len(manifest["ids"]), "sequences in the report": len(rows),
        "verdicts": sum(summary["verdicts"].values()), "frames in the shards": frames,
        "frames in the report": summary["frames"], "frames with a score": summary["scored_frames"],
    }  # fmt: skip
    problems = []
    if rows != manifest["ids"]:
        problems.append(f"{len(manifest['ids'])} sequences came in, the report lists {len(rows)} or in another order")
    if sum(summary["verdicts"].values()) != len(rows):
        problems.append(f"{sum(summary['verdicts'].values())} verdicts for {len(rows)} sequences")
    if summary["frames"] != frames or int(manifest["frames"].sum()) != frames:
        problems.append(f"{frames} frames in the shards, {summary['frames']} in the report")
    if not summary["complete"]:
        problems.append(f"{frames - summary['scored_frames']:,} frames have no prediction yet")
    return Verdict(not problems, "; ".join(problems), counts)
