import numpy as np
import pytest
import torch
from kits.training import records

from virnuc_dagster.classify.head import Head, predict
from virnuc_dagster.training.finish import Part
from virnuc_dagster.training.frames import frames_of
from virnuc_dagster.training.head import join_heads, log_odds, stack, train_head


def random_head(features: int, seed: int) -> Head:
    torch.manual_seed(seed)
    head = Head(features, 5)
    head.bn1.running_mean.normal_()
    head.bn1.running_var.uniform_(0.5, 2)
    return head.eval()


def test_a_joined_head_adds_up_log_odds_in_the_published_shape():
    dna, protein = torch.randn(7, 3), torch.randn(7, 4)
    heads = [random_head(3, 1), random_head(4, 2)]

    joined = join_heads(heads, [0.5, -2.0], 0.25)

    expected = 0.5 * log_odds(heads[0], dna) - 2.0 * log_odds(heads[1], protein) + 0.25
    assert log_odds(joined, torch.cat((dna, protein), dim=1)) == pytest.approx(expected, abs=1e-5)
    assert joined.state_dict().keys() == Head(7, 10).state_dict().keys()


def test_stacking_calibrates():
    random = np.random.default_rng(0)
    truth_log_odds = random.normal(size=20_000)
    virus = random.random(20_000) < 1 / (1 + np.exp(-truth_log_odds))

    factors, shift = stack(((truth_log_odds - 1) / 3)[:, None], virus, np.ones(20_000))

    assert factors[0] == pytest.approx(3, rel=0.1)
    assert shift == pytest.approx(1, abs=0.15)


def embedded(groups: slice) -> Part:
    """Embeddings of very different scales, of which one column tells the classes apart."""
    found = [r for r in records() if int(r.id[2]) in range(4)[groups]]
    frames = frames_of(found, 500)
    random = torch.Generator().manual_seed(len(found))
    dna = torch.randn(len(frames), 3, generator=random) * 1000 + 500
    dna[:, 1] += torch.from_numpy(frames.virus) * 5000
    protein = torch.randn(len(frames), 2, generator=random) / 1000
    return Part(found, frames, {"dnabert_s": dna, "esm2": protein})


def test_a_head_learns_and_takes_raw_embeddings():
    fit, dev = embedded(slice(0, 2)), embedded(slice(2, 4))
    curve = []

    head = train_head(fit, dev, hidden=16, seed=1, epochs=60, on_epoch=curve.append)
    again = train_head(fit, dev, hidden=16, seed=1, epochs=60, on_epoch=curve.append)

    right = (predict(head, dev.embeddings)[:, 1] > 0.5).numpy() == dev.frames.virus
    assert right.mean() > 0.9
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))
    best = min(entry["dev_loss"] for entry in curve)
    signed = log_odds(head, dev.joined) * np.where(dev.frames.virus, 1, -1)
    assert np.average(np.logaddexp(0, -signed), weights=dev.frames.weight) == pytest.approx(best, abs=1e-3)
