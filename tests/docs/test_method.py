"""docs/method.md says what the code does: its sections are cited, its tables and defaults are those of the code."""

import re
from pathlib import Path

import pytest

from virnuc_dagster.classify.composition import _CODON_UNIT
from virnuc_dagster.classify.consensus import KNOWN_SHARE, Reason, Verdict
from virnuc_dagster.classify.roll_up import _SUREST, ROLL_UPS
from virnuc_dagster.embedding.esm2 import _UNMASKED_SCALE, ALPHABET, MAX_RESIDUES
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.models.importing import DEFAULT_ROLL_UP, DEFAULT_THRESHOLDS
from virnuc_dagster.models.spec import BundleSpec, Thresholds
from virnuc_dagster.sequences.reader import NUCLEOTIDE_LETTERS
from virnuc_dagster.sequences.translation import FRAME_NAMES, KNOWN_WORD, open_frames
from virnuc_dagster.sequences.windows import window_spans
from virnuc_dagster.training import finish

ROOT = Path(__file__).parents[2]
METHOD = (ROOT / "docs" / "method.md").read_text()
PROSE = " ".join(METHOD.split())
SECTIONS = {int(number) for number in re.findall(r"^## (\d+)\. ", METHOD, re.MULTILINE)}
CITATION = re.compile(r"method\.md((?:[\s,]*(?:and |to )?§\d+(?:-§?\d+)?)*)")


def sources() -> list[Path]:
    return [path for folder in ("virnuc_dagster", "tests", "bench", "tools") for path in (ROOT / folder).rglob("*.py")]


def cited(text: str) -> list[int]:
    """The sections that a text cites; 0 where it cites the page without a section.

    >>> cited("method.md §1, §2; method.md §1 to §3; method.md alone")
    [1, 2, 1, 3, 0]
    """
    found = []
    for sections in CITATION.findall(text):
        found += [int(number) for number in re.findall(r"\d+", sections)] or [0]
    return found


def rows(*headings: str) -> list[list[str]]:
    """The cells of the one table of the page that has these headings."""
    cells = [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in METHOD.splitlines()]
    (start,) = [index for index, row in enumerate(cells) if row == list(headings)]
    found = []
    for row in cells[start + 2 :]:
        if not row:
            return found
        found.append(row)
    return found


def test_every_cited_section_exists():
    own = Path(__file__)
    citations = {path: cited(path.read_text()) for path in sources() if path != own}
    assert sum(map(len, citations.values())) > 20
    wrong = {str(path.relative_to(ROOT)): set(found) - SECTIONS for path, found in citations.items()}
    assert not {path: sections for path, sections in wrong.items() if sections}


def test_windows_are_cut_as_the_table_says():
    table = rows("C", "L", "starts", "bases of the last window")
    assert len(table) > 5
    for window_length, length, starts, last in table:
        spans = window_spans(int(length), int(window_length))
        assert spans[:, 0].tolist() == [int(start) for start in starts.split(",")]
        assert spans[-1, 1] - spans[-1, 0] == int(last)


@pytest.mark.parametrize("window_length", [300, 500])
def test_texts_of_open_frames_are_as_long_as_the_table_says(window_length):
    table = {row[0]: row[1:] for row in rows("window", "nucleotides of frame 1, 2, 3", "residues of frame 1, 2, 3")}
    nucleotides, residues = ([int(n) for n in cell.split(",")] for cell in table[f"{window_length} bases"])

    found = open_frames([b"GCA" * 200], window_length)

    first = found.window == 0
    lengths = [(len(found.nucleotide[i]), len(found.protein[i])) for i in first.nonzero()[0]]
    assert len(lengths) == len(FRAME_NAMES)
    assert lengths == [*zip(nucleotides, residues, strict=True)] * 2


def test_the_example_of_an_ambiguous_codon():
    example = re.search(r"F1 of `(\w+)` has the protein `(\w+)` and the text `(\w+)`", PROSE)
    assert example
    sequence, protein, text = example.groups()
    found = open_frames([sequence.encode()], 500)
    assert (found.protein[0], found.nucleotide[0], bool(found.ambiguous[0])) == (protein, text, True)


def test_roll_ups_are_those_of_the_code():
    assert {row[0] for row in rows("name", "score of the sequence")} == ROLL_UPS.keys()
    assert BundleSpec.model_fields["roll_up"].default == DEFAULT_ROLL_UP == "mean"


def test_thresholds_are_those_of_the_code():
    columns = ("in a bundle that names none", "in an imported bundle", "from `virnuc train")  # `rows` strips marks
    table = {row[0]: row[1:] for row in rows("threshold", *columns)}
    assert table.keys() == Thresholds.model_fields.keys()
    imported = Thresholds(**DEFAULT_THRESHOLDS)
    for name, (unnamed, of_import, trained) in table.items():
        field = Thresholds.model_fields[name]
        assert unnamed.startswith("must be named") if field.is_required() else float(unnamed) == field.default
        assert float(of_import) == getattr(imported, name)
        fixed = {
            "scored_share": finish.SCORED_SHARE,
            "known_share": finish.KNOWN_SHARE,
            "known_bases": finish.KNOWN_BASES,
        }
        assert trained.startswith("chosen") if name not in fixed else float(trained) == fixed[name]
    assert float(table["known_share"][0]) == KNOWN_SHARE


def test_verdicts_and_reasons_are_in_the_order_of_the_code():
    verdicts = re.findall(r"^\d+\. `([a-z -]+)`:", METHOD, re.MULTILINE)
    assert set(verdicts) == {verdict.value for verdict in Verdict}
    assert verdicts == [
        *(v.value for v in (Verdict.INCOMPLETE, Verdict.TOO_SHORT, Verdict.NO_OPEN_FRAME)),
        *(v.value for v in (Verdict.UNCERTAIN, Verdict.VIRAL, Verdict.NON_VIRAL, Verdict.UNCERTAIN)),
    ]
    assert re.findall(r"^\d+\. `(\w+_\w+)`:", METHOD, re.MULTILINE) == [reason.value for reason in Reason]


def test_figures_in_the_text_are_those_of_the_code():
    assert f"first {MAX_RESIDUES:,} residues" in PROSE
    assert f"alphabet has {len(ALPHABET)} tokens" in PROSE
    assert f"({Settings.model_fields['shard_size'].default:,} unless set otherwise)" in PROSE
    assert f"multiplied by {_UNMASKED_SCALE:.2f} if" in PROSE
    assert f"over the six frames, divided by {_CODON_UNIT}." in PROSE
    assert f"of s cut to {1 - _SUREST:.2f} to {_SUREST}," in PROSE
    assert KNOWN_WORD == 6
    assert "words of six letters" in PROSE
    assert f"must be one of `{NUCLEOTIDE_LETTERS.decode()}`" in PROSE
