"""What a verdict hangs on besides the sequence: how much of it is N, how long it is, the strand, and where it is cut.

    python bench/verdicts.py masked GENOMES.fasta.gz LABELS.tsv [--sequences 300]
    python bench/verdicts.py turned GENOMES.fasta.gz LABELS.tsv [--sequences 300]
    python bench/verdicts.py fallback GENOMES.fasta.gz LABELS.tsv [--sequences 300]
    python bench/verdicts.py short GENOMES.fasta.gz LABELS.tsv [--sequences 1000]

LABELS as for `virnuc evaluate`; records of one split, never one that is kept for a last look. Of each drawn record one
piece of a fifth of `--length` bases to all of them is scored as a sequence of its own, as `predict` does; half of the
pieces are viruses, and records of different groups come first. `masked` overwrites a share of the bases with N, in one
block or scattered, and counts firm verdicts and wrong ones for several values of the bundle's `known_share` (0: every
window with a score counts). `turned` compares each verdict with that of the reverse complement, of the piece rotated by
250 bases, and of the piece without its first 30. `fallback` counts the windows of viruses without an open frame
that the fallback scores 0.5 or more, with few single letters overwritten. `short` cuts the pieces to their first
bases and counts firm verdicts and right ones as if the bundle asked for no known bases. Takes some minutes.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from virnuc_dagster.classify.consensus import SequenceScore, Source, Verdict, WindowScore, score_sequence
from virnuc_dagster.embedding.registry import encoder_of
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.sequences.labels import Label, read_labels
from virnuc_dagster.sequences.reader import read_sequences
from virnuc_dagster.sequences.translation import unknown_bases
from virnuc_dagster.training.finish import Part
from virnuc_dagster.training.frames import frames_of
from virnuc_dagster.training.records import Record

KNOWN_SHARES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7)
LENGTHS = (4, 10, 30, 50, 75, 100, 125, 150, 200, 300, 500)
SPRINKLED = (0.0, 0.01, 0.02, 0.05)
MASKED = (0.0, 0.05, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8)
_COMPLEMENT = bytes.maketrans(b"ACGTRYKMBDHV", b"TGCAYRMKVHDB")
_FIRM = (Verdict.VIRAL, Verdict.NON_VIRAL)
TURNED: dict[str, Callable[[bytes], bytes]] = {
    "reverse complement": lambda text: text.translate(_COMPLEMENT)[::-1],
    "rotated by 250 bases": lambda text: text[250:] + text[:250],
    "without the first 30 bases": lambda text: text[30:],
}


def draw(genomes: Path, labels: list[Label], number: int, length: int, seed: int) -> list[Record]:
    """One piece of each drawn record; half of the pieces are viruses, and records of different groups come first."""
    choose, wanted = random.Random(seed), {label.id: label for label in labels}
    found: dict[bool, list[tuple[int, float, Record]]] = {True: [], False: []}
    seen: dict[str, int] = {}
    for one in read_sequences(genomes, name=genomes.name):
        label = wanted.get(one.id)
        if label is None or len(one.sequence) < length or one.sequence.count(b"N") > length // 100:
            continue
        size = choose.randint(length // 5, length)  # windows of a multiple of their length lie alike on both strands
        first = choose.randrange(len(one.sequence) - size + 1)
        piece = one.sequence[first : first + size]
        record = Record(one.id, label.is_virus, label.category, label.group, label.split, piece)
        rank = seen[label.group] = seen.get(label.group, -1) + 1
        found[label.is_virus].append((rank, choose.random(), record))
    return [entry[2] for kind in found.values() for entry in sorted(kind, key=lambda e: e[:2])[: number // 2]]


def masked(text: bytes, share: float, kind: str, seed: int) -> bytes:
    """A text with a share of its letters overwritten by N."""
    choose, count = random.Random(seed), round(share * len(text))
    letters = bytearray(text)
    first = choose.randrange(len(text) - count + 1)
    for place in range(first, first + count) if kind == "block" else choose.sample(range(len(text)), count):
        letters[place] = ord("N")
    return bytes(letters)


class Scorer:
    """Scores records as `predict` does."""

    def __init__(self, name: str) -> None:
        bundle, device = open_bundle(name), torch.device("cpu")
        self.spec = bundle.spec
        self.encoders = {of.part: bundle.load_encoder(of.part, device) for of in bundle.spec.encoders}
        self.head, self.fallback = bundle.load_head(device), bundle.load_fallback()

    def windows(self, records: list[Record]) -> list[list[WindowScore]]:
        """Windows of each record."""
        frames = frames_of(records, self.spec.window_length)
        vectors = {
            part: embed(encoder, frames.ids, getattr(frames, encoder_of(part).reads), token_budget=8192)
            for part, encoder in self.encoders.items()
        }
        return Part(records, frames, vectors).windows(self.head, self.fallback, self.spec.window_length)

    def verdicts(self, records: list[Record], windows: list[list[WindowScore]], **rule: float) -> list[SequenceScore]:
        """The bundle's verdict of each record, with another rule if one is named."""
        limits = self.spec.thresholds.model_dump() | rule | {"roll_up": self.spec.roll_up}
        return [
            score_sequence(
                record.id, len(record.sequence), mine, unknown_bases=unknown_bases(record.sequence), **limits
            )
            for record, mine in zip(records, windows, strict=True)
        ]


def changed(record: Record, text: bytes) -> Record:
    """A record with another sequence."""
    return Record(record.id, record.is_virus, record.category, record.group, record.split, text)


def masked_rows(scorer: Scorer, records: list[Record]) -> Iterator[dict[str, object]]:
    """Firm and wrong verdicts by kind and share of masking, and by rule."""
    for kind in ("block", "scattered"):
        for share in MASKED:
            forms = [changed(r, masked(r.sequence, share, kind, seed)) for seed, r in enumerate(records)]
            windows = scorer.windows(forms)
            for known_share in KNOWN_SHARES:
                found = scorer.verdicts(forms, windows, known_share=known_share)
                row: dict[str, object] = {"kind": kind, "masked": share, "known_share": known_share}
                for name, is_virus in (("viruses", True), ("others", False)):
                    mine = [v.verdict for v, r in zip(found, records, strict=True) if r.is_virus == is_virus]
                    wrong = mine.count(Verdict.NON_VIRAL if is_virus else Verdict.VIRAL)
                    firm = sum(verdict in _FIRM for verdict in mine)
                    row |= {f"{name}_firm": round(firm / len(mine), 3), f"{name}_wrong": round(wrong / len(mine), 3)}
                yield row


def turned_rows(scorer: Scorer, records: list[Record]) -> Iterator[dict[str, object]]:
    """How many verdicts differ from those of the sequences as they are."""
    as_is = [v.verdict for v in scorer.verdicts(records, scorer.windows(records))]
    for name, turn in TURNED.items():
        forms = [changed(record, turn(record.sequence)) for record in records]
        found = [v.verdict for v in scorer.verdicts(forms, scorer.windows(forms))]
        pairs = list(zip(as_is, found, strict=True))
        yield {
            "form": name,
            "sequences": len(pairs),
            "changed": sum(a is not b for a, b in pairs),
            "viral gained or lost": sum((a is Verdict.VIRAL) != (b is Verdict.VIRAL) for a, b in pairs),
            "viral to non-viral or back": sum({a, b} == set(_FIRM) for a, b in pairs),
        }


def fallback_rows(scorer: Scorer, records: list[Record]) -> Iterator[dict[str, object]]:
    """How often the fallback finds the windows of viruses that have no open frame, with single letters unknown."""
    viruses = [record for record in records if record.is_virus]
    for share in SPRINKLED:
        forms = [changed(r, masked(r.sequence, share, "scattered", seed)) for seed, r in enumerate(viruses)]
        scores = [w.score for mine in scorer.windows(forms) for w in mine if w.source is Source.FALLBACK]
        found = sum(score is not None and score >= 0.5 for score in scores)
        yield {"scattered": share, "windows": len(scores), "found": round(found / len(scores), 3)}


def short_rows(scorer: Scorer, records: list[Record]) -> Iterator[dict[str, object]]:
    """Firm verdicts by length, and how many of them are right."""
    for length in LENGTHS:
        forms = [changed(record, record.sequence[:length]) for record in records]
        found = scorer.verdicts(forms, scorer.windows(forms), known_bases=0)
        firm = [(v.verdict, r.is_virus) for v, r in zip(found, forms, strict=True) if v.verdict in _FIRM]
        right = sum((verdict is Verdict.VIRAL) == is_virus for verdict, is_virus in firm)
        yield {
            "bases": length,
            "firm": round(len(firm) / len(forms), 3),
            "right of these": round(right / len(firm), 3) if firm else None,
            "viruses non-viral": sum(is_virus and verdict is Verdict.NON_VIRAL for verdict, is_virus in firm),
            "others viral": sum(not is_virus and verdict is Verdict.VIRAL for verdict, is_virus in firm),
        }


ROWS = {"masked": masked_rows, "turned": turned_rows, "fallback": fallback_rows, "short": short_rows}


def main() -> None:
    """Measure and print a line of JSON a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(ROWS))
    parser.add_argument("genomes", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--sequences", type=int, default=300)
    parser.add_argument("--length", type=int, default=5_000)
    parser.add_argument("--bundle", default="mini")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    labels = read_labels(options.labels, options.split)
    records = draw(options.genomes, labels, options.sequences, options.length, options.seed)
    for row in ROWS[options.what](Scorer(options.bundle), records):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
