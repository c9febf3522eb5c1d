"""DNABERT-S against the stored output of the published implementation, and against a plain restatement of its parts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSEncoder, DnabertSModel, alibi_bias, alibi_slopes
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.errors import BundleError

SHARED = Path(__file__).parents[2].parent / "shared/data"
GOLDEN = SHARED / "golden/dnabert_s_tiny"
TOKENIZER = SHARED / "dnabert2_tokenizer/tokenizer.json"
CPU = torch.device("cpu")

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir() or not TOKENIZER.is_file(), reason=f"{GOLDEN} is not here")

TINY = {
    "vocab_size": 20,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 16,
}


@pytest.fixture(scope="module")
def golden() -> tuple[DnabertSEncoder, list[dict], dict[str, torch.Tensor]]:
    config = json.loads((GOLDEN / "config.json").read_text())
    model = DnabertSModel(DnabertSConfig.from_dict(config))
    model.load_published(load_file(GOLDEN / "model.safetensors"))
    encoder = DnabertSEncoder(model.pack(torch.float32, CPU), Tokenizer.from_file(str(TOKENIZER)), "tiny", CPU)
    return encoder, json.loads((GOLDEN / "inputs.json").read_text()), load_file(GOLDEN / "expected.safetensors")


@needs_golden
def test_pooled_embeddings_equal_the_reference(golden):
    encoder, inputs, expected = golden

    found = embed(encoder, [str(i) for i in range(len(inputs))], [i["sequence"] for i in inputs], token_budget=500)

    torch.testing.assert_close(found, expected["mean_embeddings"], rtol=0, atol=2e-5)


@needs_golden
def test_last_hidden_state_equals_the_reference(golden):
    encoder, inputs, expected = golden

    found = encoder.model(torch.tensor([inputs[0]["token_ids"]]))[0]

    torch.testing.assert_close(found, expected["last_hidden_state_0"], rtol=0, atol=2e-5)


@needs_golden
def test_bfloat16_stays_close_to_the_reference(golden):
    _, inputs, expected = golden
    model = DnabertSModel(DnabertSConfig.from_dict(json.loads((GOLDEN / "config.json").read_text())))
    model.load_published(load_file(GOLDEN / "model.safetensors"))
    encoder = DnabertSEncoder(model.pack(torch.bfloat16, CPU), Tokenizer.from_file(str(TOKENIZER)), "tiny", CPU)

    found = embed(encoder, ["a"], [inputs[0]["sequence"]], token_budget=500)

    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found[0], expected["mean_embeddings"][0], dim=0) > 0.999
    assert not torch.equal(found[0], expected["mean_embeddings"][0])


@needs_golden
def test_tokens_are_those_of_the_published_tokeniser(golden):
    encoder, inputs, _ = golden
    text = "ACGTAGCATCGGATCTATCTATCGACACTTGGTTATCGATCTACGAGCATCTCGTTAGC"
    ids = [1, 5, 194, 32, 757, 1239, 2092, 294, 24, 359, 88, 93, 32, 75, 77, 19, 2]

    assert encoder.tokenize([text]) == [ids]
    assert encoder.tokenize([i["sequence"] for i in inputs]) == [i["token_ids"] for i in inputs]


@pytest.mark.parametrize(
    ("heads", "powers"),
    [
        (8, [-1, -2, -3, -4, -5, -6, -7, -8]),  # the example of the paper
        (4, [-2, -4, -6, -8]),
        (12, [-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5]),  # production: 8, then every second one of 16
        (3, [-4, -8, -2]),
        (1, [-8]),
    ],
)
def test_alibi_slopes(heads, powers):
    assert alibi_slopes(heads) == pytest.approx([2.0**power for power in powers])


def test_alibi_bias_falls_with_the_distance_on_both_sides():
    assert alibi_bias(8, 3)[1].tolist() == [[0, -0.25, -0.5], [-0.25, 0, -0.25], [-0.5, -0.25, 0]]


def test_published_names_round_trip():
    model, copy = (DnabertSModel(DnabertSConfig.from_dict(TINY)) for _ in range(2))
    tokens = torch.arange(7)[None]

    copy.load_published({f"bert.{name}": tensor for name, tensor in model.published_state().items()})

    assert torch.equal(model(tokens), copy(tokens))


def test_weights_that_do_not_fit_are_all_named():
    model = DnabertSModel(DnabertSConfig.from_dict(TINY))
    state = model.published_state()
    del state["encoder.layer.1.mlp.wo.bias"]
    state["embeddings.LayerNorm.bias"] = torch.zeros(5)
    state["encoder.layer.2.mlp.wo.bias"] = torch.zeros(24)
    state["pooler.dense.weight"] = torch.zeros(1)

    with pytest.raises(BundleError) as caught:
        model.load_published(state)

    assert caught.value.fields["problems"] == [
        "missing encoder.layer.1.mlp.wo.bias",
        "unknown encoder.layer.2.mlp.wo.bias",
        "embeddings.LayerNorm.bias is (5,), expected (24,)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
        ({"vocab_size": None}, "lacks vocab_size"),
    ],
)
def test_a_configuration_of_another_architecture_is_refused(change, message):
    config = {name: value for name, value in (TINY | change).items() if value is not None}

    with pytest.raises(ValueError, match=message):
        DnabertSConfig.from_dict(config)
