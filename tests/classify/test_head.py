"""The head against its formula, and the independence of a frame's score from its company."""

import pytest
import torch

from virnuc_dagster.classify.head import Head, predict


@pytest.fixture
def head() -> Head:
    torch.manual_seed(0)
    head = Head(features=40, hidden=16)
    head.bn1.running_mean.normal_()
    head.bn1.running_var.uniform_(0.5, 2)
    return head.eval()


def embeddings(frames: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {part: torch.randn(frames, width, generator=random) for part, width in (("dnabert_s", 24), ("esm2", 16))}


def test_scores_follow_the_formula(head):
    given = embeddings(300)
    x = torch.cat((given["dnabert_s"], given["esm2"]), 1) @ head.hidden_layer.weight.T + head.hidden_layer.bias
    x = (x - head.bn1.running_mean) / (head.bn1.running_var + 1e-5).sqrt() * head.bn1.weight + head.bn1.bias
    expected = torch.softmax(x.clamp_min(0) @ head.output_layer.weight.T + head.output_layer.bias, 1)

    found = predict(head, given)

    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(300), rtol=0, atol=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("frames", [1, 2, 7, 255, 256, 257])
def test_a_frame_scores_the_same_in_any_company(head, frames):
    given = embeddings(600)
    whole = predict(head, given)

    found = predict(head, {part: rows[-frames:] for part, rows in given.items()})

    assert torch.equal(found, whole[-frames:])


def test_no_frames_give_no_scores(head):
    assert predict(head, embeddings(0)).shape == (0, 2)


def test_parameter_names_are_those_of_the_published_heads(head):
    parts = {name.split(".")[0] for name in head.state_dict()}

    assert parts == {"hidden_layer", "bn1", "output_layer"}


def test_a_head_in_training_is_refused(head):
    with pytest.raises(ValueError, match=r"head\.eval"):
        predict(head.train(), embeddings(2))


@pytest.mark.parametrize(("dna", "protein"), [((3, 24), (2, 16)), ((3, 24), (3, 17)), ((24,), (16,))])
def test_embeddings_that_do_not_fit_are_refused(head, dna, protein):
    with pytest.raises(ValueError, match="do not fit 40 features"):
        predict(head, {"dnabert_s": torch.zeros(dna), "esm2": torch.zeros(protein)})


def test_embeddings_are_joined_in_the_order_of_the_table_whatever_that_of_the_mapping(head):
    given = embeddings(5)

    assert torch.equal(predict(head, dict(reversed(given.items()))), predict(head, given))


@pytest.mark.parametrize("parts", [("dnabert_s", "esm3"), ()])
def test_embeddings_of_no_encoder_of_the_table_are_refused(head, parts):
    with pytest.raises(ValueError, match=r"no encoders of this program: (dnabert_s, esm3|none)"):
        predict(head, dict.fromkeys(parts, torch.zeros(3, 20)))
