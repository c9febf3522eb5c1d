"""Small synthetic genomes with labels, and tiny networks to train on them in seconds."""

import random
from pathlib import Path

from virnuc_dagster.training.encoders import EncoderOptions
from virnuc_dagster.training.loop import Recipe
from virnuc_dagster.training.networks import Size
from virnuc_dagster.training.records import Record
from virnuc_dagster.training.tokens import CODONS

OPEN_CODONS = [codon for codon in CODONS if codon not in ("TAA", "TAG", "TGA")]
CLOSED = "TAATTAATTAACTAACTAAC"
"""Holds a stop in every frame."""


def genome(seed: int, *, is_virus: bool, codons: int = 200) -> str:
    """A gene of AT-rich (virus) or GC-rich codons, and bases without an open frame after it."""
    weights = [3 if (sum(base in "AT" for base in codon) >= 2) == is_virus else 1 for codon in OPEN_CODONS]
    return "".join(random.Random(seed).choices(OPEN_CODONS, weights, k=codons)) + CLOSED * (3 * codons // 20)


def records(groups: int = 4, *, val: bool = True) -> list[Record]:
    """Two categories a class, `groups` groups a category, two records a group; the last group of each is `val`."""
    return [
        Record(
            id=f"{'v' if is_virus else 'o'}{category}{group}{number}",
            is_virus=is_virus,
            category=f"c{category}",
            group=f"{'v' if is_virus else 'o'}{category}{group}",
            split="val" if val and group == groups - 1 else "train",
            sequence=genome(1000 * is_virus + 100 * category + 10 * group + number, is_virus=is_virus).encode(),
        )
        for is_virus in (True, False)
        for category in range(2)
        for group in range(groups)
        for number in range(2)
    ]


def write(folder: Path, found: list[Record]) -> tuple[Path, Path]:
    """The records as a sequence file and a table of labels."""
    fasta, labels = folder / "genomes.fasta", folder / "labels.tsv"
    fasta.write_text("".join(f">{r.id} made up\n{r.sequence.decode()}\n" for r in found))
    rows = (f"{r.id}\t{'virus' if r.is_virus else 'other'}\t{r.category}\t{r.group}\t{r.split}\n" for r in found)
    labels.write_text("id\tlabel\tcategory\tgroup\tsplit\n" + "".join(rows))
    return fasta, labels


def tiny_options(steps: int = 60, seed: int = 1) -> EncoderOptions:
    """Networks of a few hundred weights."""
    recipe = Recipe(Size(8, 1, 2, 8, 4), steps=steps, batch=8, crop=16, average=0.8, evaluate_every=20)
    return EncoderOptions(seed, shifts=(0,), widths=(), recipes={"dnabert_s": recipe, "esm2": recipe})
