"""What is chosen on `dev` when it holds little to choose by."""

import dataclasses

import numpy as np
import pytest
import torch
from kits.training import CLOSED, records, tiny_options

from virnuc_dagster.classify.head import Head
from virnuc_dagster.errors import InputError
from virnuc_dagster.progress import Progress
from virnuc_dagster.training.data import Data
from virnuc_dagster.training.finish import Part, fit_fallbacks
from virnuc_dagster.training.frames import frames_of, require_both_classes
from virnuc_dagster.training.run import Wanted, train_all


def part(found) -> Part:
    frames = frames_of(found, 500)
    return Part(found, frames, {part: torch.randn(len(frames), 2) for part in ("dnabert_s", "esm2")})


@pytest.mark.parametrize("closed", [set(), {True}, {True, False}], ids=["none", "of one class", "few of both"])
def test_the_fallback_is_calibrated_also_where_few_windows_have_no_open_frame(closed):
    """One class had none: scikit-learn refused it, after all the training."""
    data = Data.of(
        [dataclasses.replace(r, sequence=r.sequence[:600] + b"TAA" * (r.is_virus in closed)) for r in records()], 1, 500
    )

    chosen_by, shipped = fit_fallbacks(data.fit, part(data.dev), Head(4, 3).eval(), 500)

    is_virus = np.array([record.is_virus for record in data.dev])
    scores = [model.score([record.sequence[:500] for record in data.dev]) for model in (chosen_by, shipped)]
    for score in scores:
        assert score[is_virus].mean() > 0.5 > score[~is_virus].mean()
    assert (scores[0] != scores[1]).any(), "the one to ship has learnt from dev as well"


def test_a_class_without_an_open_frame_is_refused_before_anything_is_trained(tmp_path):
    closed = [r if r.is_virus else dataclasses.replace(r, sequence=CLOSED.encode() * 40) for r in records()]

    with pytest.raises(InputError, match="no record of label other to learn from has an open frame") as caught:
        train_all(closed, tiny_options(), Wanted(tmp_path / "bundle", ""), Progress())

    assert caught.value.hint
    assert not list(tmp_path.iterdir())
    require_both_classes(frames_of(records(), 500), "to learn from")
