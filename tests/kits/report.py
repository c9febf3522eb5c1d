"""Made-up batches of any size as report pages, and a reader of a page's data."""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from virnuc_dagster.classify.consensus import SequenceScore, Source, WindowScore, score_sequence
from virnuc_dagster.models.spec import Thresholds
from virnuc_dagster.report.counts import BatchCounts
from virnuc_dagster.report.embedding_map import EmbeddingMap, principal_plane
from virnuc_dagster.report.page import PageContent, page
from virnuc_dagster.report.quality import warnings
from virnuc_dagster.report.rows import PageRows
from virnuc_dagster.sequences.windows import window_spans

THRESHOLDS = Thresholds(viral=0.69, non_viral=0.33, scored_share=0.1)


def scored(
    sequence_id: str, length: int, scores: Sequence[tuple[str, float] | None], *, complete=True
) -> SequenceScore:
    """A sequence with (source, P(virus)) or None for each of its 500-base windows."""
    spans = window_spans(length, 500).tolist()
    windows = []
    for number, ((start, end), found) in enumerate(zip(spans, scores, strict=True), 1):
        source, virus = (Source(found[0]), found[1]) if found else (Source.NONE if complete else Source.MISSING, None)
        windows.append(
            WindowScore(
                f"{sequence_id}_chunk_{number}", start, end, int(source is Source.FRAME),
                None if virus is None else 1 - virus, virus, source,
            )
        )  # fmt: skip
    return score_sequence(sequence_id, length, windows, viral=0.69, non_viral=0.33, scored_share=0.1, complete=complete)


def content(
    sequences: Iterable[SequenceScore], *, rows: PageRows | None = None, mapped: int = 0, **facts
) -> PageContent:
    """The content of a page of these sequences."""
    counts, rows, verdicts = BatchCounts("batch-00000000", 500), rows or PageRows(), []
    for sequence in sequences:
        counts.add(sequence)
        rows.add(sequence)
        verdicts.append(sequence.verdict)
    counts.frames = counts.scored_frames = counts.scored_windows
    found = None
    if mapped:
        rng = np.random.default_rng(0)
        plane, explained = principal_plane((rng.normal(size=(mapped, 8)).astype(np.float32),))
        owner = np.arange(mapped) % len(verdicts)
        found = EmbeddingMap(plane[:, 0], plane[:, 1], explained, owner, rng.random(mapped), counts.frames)
    return PageContent(
        counts.summary(), rows, bins=counts.bins, warnings=list(warnings(counts)), facts={"bundle": "test"} | facts,
        window_length=500, thresholds=THRESHOLDS, roll_up="The mean.", embeddings=found, verdicts=verdicts,
    )  # fmt: skip


def many(count: int) -> Iterable[SequenceScore]:
    """Contigs as an assembler names them, a third of their windows with a score."""
    rng = np.random.default_rng(1)
    for number, length in enumerate(np.exp(rng.normal(7.3, 0.9, count)).astype(int) + 3, 1):
        viral = rng.random() < 0.4
        scores = [
            ("frame" if rng.random() < 0.9 else "fallback", float(rng.beta(5, 1.5) if viral else rng.beta(1.5, 5)))
            if rng.random() < 0.35
            else None
            for _ in window_spans(int(length), 500)
        ]
        yield scored(f"NODE_{number}_length_{length}_cov_{rng.random() * 40:.6f}", int(length), scores)


def data_of(html: bytes, block: str) -> dict[str, object]:
    """What a page's block of data holds, read as `static/data.js` does."""
    packed = re.search(rf'id="{block}">([^<]*)</script>', html.decode()).group(1)
    whole = zlib.decompress(base64.b64decode(packed))
    size = int.from_bytes(whole[:4], "little")
    header = json.loads(whole[4 : 4 + size])
    columns = {
        name: np.frombuffer(whole, place["dtype"], place["length"], 4 + size + place["offset"])
        for name, place in header["columns"].items()
    }
    return header["facts"] | columns


__all__ = ["THRESHOLDS", "content", "data_of", "many", "page", "scored"]
