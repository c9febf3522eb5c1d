"""Figures of result tables, against values worked out by hand."""

import pytest

from virnuc_dagster.evaluation.results import figures, floor_figures, read_table
from virnuc_dagster.sequences.labels import Label

LABELS = {
    "v1": Label("v1", True, "phage", "a"),
    "v2": Label("v2", True, "phage", "b"),
    "o1": Label("o1", False, "plant", "c"),
    "o2": Label("o2", False, "human", "d"),
}
WINDOWS = [  # sequence, P(others), P(virus), source, whether it counts
    ("v1", "0.2", "0.8", "frame", "True"),
    ("v1", "0.6", "0.4", "fallback", "True"),
    ("v2", "0.4", "0.6", "fallback", "True"),
    ("o1", "0.9", "0.1", "frame", "True"),
    ("o1", "0.3", "0.9", "frame", "True"),  # score 0.75
    ("o2", "NA", "NA", "none", "False"),
    ("o2", "0.1", "0.9", "frame", "False"),  # too little known
]
SEQUENCES = [
    ("v1", "0.6", "uncertain"),
    ("v2", "0.6", "viral"),
    ("o1", "0.425", "viral"),
    ("o2", "NA", "no open frame"),
]


@pytest.fixture(scope="module")
def found():
    windows = dict(
        zip(
            ("sequence_id", "score_others", "score_virus", "source", "counted"),
            map(list, zip(*WINDOWS, strict=True)),
            strict=True,
        )
    )
    sequences = dict(zip(("sequence_id", "score", "verdict"), map(list, zip(*SEQUENCES, strict=True)), strict=True))
    return figures(windows, sequences, LABELS, roll_up="max", replicates=20)


@pytest.mark.parametrize(
    ("section", "n", "coverage", "accuracy", "sensitivity", "specificity"),
    [
        ("open_windows", 3, 3 / 7, 2 / 3, 1, 1 / 2),
        ("no_frame_windows", 2, 2 / 7, 1 / 2, 1 / 2, None),
        ("all_windows", 5, 5 / 7, 3 / 5, 2 / 3, 1 / 2),
        ("sequences", 3, 3 / 4, 1, 1, 1),
        ("sequences_without_fallback", 2, 2 / 4, 1 / 2, 1, 0),  # by max, o1 scores 0.75
    ],
)
def test_each_section_is_about_its_own_rows(found, section, n, coverage, accuracy, sensitivity, specificity):
    entry = found[section]

    assert (entry["n"], entry["coverage"]) == (n, pytest.approx(coverage))
    assert entry["accuracy"] == pytest.approx(accuracy)
    assert (entry["sensitivity"], entry["specificity"]) == (pytest.approx(sensitivity), pytest.approx(specificity))


def test_categories_count_what_has_no_score_and_weigh_alike_in_the_macro_mean(found):
    by_category = found["all_windows"]["by_category"]

    assert {name: (e["n"], e["coverage"], e["accuracy"]) for name, e in by_category.items()} == {
        "human": (0, 0.0, None),
        "phage": (3, 1.0, pytest.approx(2 / 3)),
        "plant": (2, 1.0, 0.5),
    }
    assert found["all_windows"]["macro"]["accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["all_windows"]["macro"]["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_verdicts_are_counted_and_judged(found):
    verdicts = found["sequences"]["verdicts"]

    assert (verdicts["called"], verdicts["right"]) == (2 / 4, 1 / 2)
    assert verdicts["balanced_right"] == pytest.approx((1 / 2) / (1 / 2 + 1 / 2))
    assert {name: n for name, n in verdicts["by_category"]["phage"].items() if n} == {"viral": 1, "uncertain": 1}
    assert {name: n for name, n in verdicts["by_category"]["human"].items() if n} == {"no open frame": 1}


def test_intervals_need_groups(found):
    assert found["all_windows"]["intervals"]["accuracy"] is not None
    assert found["all_windows"]["by_category"]["plant"]["intervals"]["accuracy"] is None


def test_a_table_keeps_odd_ids_and_may_be_empty(tmp_path):
    (tmp_path / "t.tsv").write_text("id\tscore\na\x85b\t1\n", encoding="utf-8")
    (tmp_path / "empty.tsv").write_text("id\tscore\n")

    assert read_table(tmp_path / "t.tsv") == {"id": ["a\x85b"], "score": ["1"]}
    assert read_table(tmp_path / "empty.tsv") == {"id": [], "score": []}


def test_the_floor_learns_compositions():
    rich, poor = b"ATTATTATC" * 70, b"GCCGGCGGCGCCGCGC" * 40
    train = [(rich, LABELS["v1"]), (poor, LABELS["o1"])]
    test = [(rich[7:], LABELS["v2"]), (poor[7:], LABELS["o2"]), (b"AC", LABELS["o2"])]

    found = floor_figures(train, test, 500)

    assert found["all_windows"]["accuracy"] == 1
    assert (found["sequences"]["n"], found["sequences"]["coverage"]) == (2, pytest.approx(2 / 3))
    assert found["open_windows"]["n"] + found["no_frame_windows"]["n"] == found["all_windows"]["n"]


def test_a_floor_of_one_class_has_no_figures():
    found = floor_figures([(b"ACGT" * 200, LABELS["o1"])], [(b"ACGT" * 200, LABELS["o2"])], 500)

    assert found["all_windows"]["n"] == 0
    assert found["all_windows"]["accuracy"] is None
