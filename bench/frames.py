"""How fast a FASTA file becomes surviving frames, next to a plain program doing the same.

    python bench/frames.py [--megabases 20] [--slice 0.5] [--rounds 5]

Measures file -> records -> windows -> six frames -> survivors, one thread, on seeded contigs: random ones, of which
few frames survive, and coding ones, with one long open frame each. The plain program (Biopython, one window and one
frame at a time) gets a smaller slice, on which both must agree. Rounds alternate between the two; CPU seconds, medians.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from Bio import SeqIO
from Bio.Seq import Seq

from virnuc_dagster.sequences.reader import SequenceRecord, read_sequences
from virnuc_dagster.sequences.translation import FRAME_NAMES, frame_id, open_frames

CONTIG_LENGTH, LINE_LENGTH, SEED = 5000, 70, 20
BATCH_BASES = 1_000_000
KNOWN_CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
Frame = tuple[str, str, str]


def write_contigs(path: Path, bases: int, *, coding: bool) -> None:
    """Write seeded contigs; coding ones hold no stop in their first frame."""
    codons = np.array([codon for codon in KNOWN_CODONS if not (coding and codon in {"TAA", "TAG", "TGA"})])
    random = np.random.default_rng(SEED)
    with path.open("w") as file:
        for contig in range(max(1, bases // CONTIG_LENGTH)):
            sequence = "".join(random.choice(codons, CONTIG_LENGTH // 3 + 1))[:CONTIG_LENGTH]
            lines = (sequence[i : i + LINE_LENGTH] for i in range(0, CONTIG_LENGTH, LINE_LENGTH))
            file.write(f">contig_{contig}\n" + "\n".join(lines) + "\n")


def ours(path: Path, window_length: int) -> list[Frame]:
    """The package's way, about a megabase at a time."""
    found: list[Frame] = []
    batch: list[SequenceRecord] = []
    for record in read_sequences(path, name=path.name):
        batch.append(record)
        if len(batch) * CONTIG_LENGTH >= BATCH_BASES:
            found += frames_of(batch, window_length)
            batch = []
    return found + list(frames_of(batch, window_length))


def frames_of(batch: list[SequenceRecord], window_length: int) -> Iterator[Frame]:
    """Names, nucleotides and proteins of the surviving frames of some records."""
    table = open_frames([record.sequence for record in batch], window_length)
    places = zip(table.sequence.tolist(), table.window.tolist(), table.frame.tolist(), strict=True)
    names = (frame_id(batch[sequence].id, window, frame) for sequence, window, frame in places)
    return zip(names, table.nucleotide, table.protein, strict=True)


def plain(path: Path, window_length: int) -> list[Frame]:
    """The straightforward way: one window, one frame at a time (method.md §1, §2; A, C, G and T only)."""
    found = []
    for record in SeqIO.parse(path, "fasta"):
        n = -(-len(record) // window_length)
        low, more = divmod(n * window_length - len(record), n)
        for i in range(n):
            start = i * window_length - low * i - min(i, low + more)
            window = str(record.seq[start : start + window_length]).upper()
            strands = (window, str(Seq(window).reverse_complement()))
            for name, (strand, f) in zip(FRAME_NAMES, ((s, f) for s in strands for f in range(3)), strict=True):
                protein = str(Seq(strand[f : f + (len(strand) - f) // 3 * 3]).translate())
                if protein and "*" not in protein:
                    found.append((f"{record.id}_chunk_{i + 1}{name}", strand[f : f + 1 + 3 * len(protein)], protein))
    return found


def cpu_seconds(program: Callable[[Path, int], list[Frame]], path: Path, window_length: int) -> float:
    """CPU seconds of one run."""
    before = time.process_time()
    program(path, window_length)
    return time.process_time() - before


def main() -> int:
    """Run the comparison and print a line for each kind of contigs and window length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabases", type=float, default=20, help="bases of our input")
    parser.add_argument("--slice", type=float, default=0.5, help="megabases of the plain program's input")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("contigs  window  survivors  ours MB/s  plain MB/s  ratio (of round by round, min-max)")
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "whole.fasta", Path(folder) / "part.fasta"
        for kind in ("random", "coding"):
            write_contigs(whole, int(options.megabases * 1e6), coding=kind == "coding")
            write_contigs(part, int(options.slice * 1e6), coding=kind == "coding")
            for window_length in (500, 300):
                if ours(part, window_length) != plain(part, window_length):
                    print(f"{kind}, {window_length}: the two programs disagree", file=sys.stderr)
                    return 1
                survivors = len(ours(whole, window_length))
                speeds = [
                    (
                        options.megabases / cpu_seconds(ours, whole, window_length),
                        options.slice / cpu_seconds(plain, part, window_length),
                    )
                    for _ in range(options.rounds)
                ]
                fast, slow = (statistics.median(column) for column in zip(*speeds, strict=True))
                ratios = sorted(a / b for a, b in speeds)
                print(
                    f"{kind:7}  {window_length:6}  {survivors:9}  {fast:9.0f}  {slow:10.2f}"
                    f"  {statistics.median(ratios):5.0f} ({ratios[0]:.0f}-{ratios[-1]:.0f})"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
