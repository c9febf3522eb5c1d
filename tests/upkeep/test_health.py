"""What counts as implausible."""

import pytest
import torch

from virnuc_dagster.upkeep.health import check_embeddings

FRAME = "ACGTTGCAAC" * 49


@pytest.mark.parametrize(
    ("first", "second", "passed"),
    [
        (FRAME + "CC", FRAME + "CG", True),  # an encoder of six-base tokens sees neither end
        ("A" * 499, "A" * 498, True),
        (FRAME + "CC", "T" + FRAME + "C", False),
        (FRAME[:-6] + "A" + FRAME[-5:], FRAME, False),
        ("MKLV" * 40, "MKLV" * 39 + "MKLA", False),  # a protein: each residue is a token
    ],
)
def test_different_frames_have_different_vectors_unless_they_differ_only_where_none_looks(first, second, passed):
    data = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    assert check_embeddings({"ids": ["a", "b"], "data": data}, [first, second]).passed == passed


def test_a_check_that_found_nothing_has_no_count_that_the_ui_would_draw():
    data = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert "duplicated_vectors" not in check_embeddings({"ids": ["a", "b"], "data": data}, ["A", "C"]).facts
