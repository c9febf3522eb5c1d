"""ESM-2 against the reference program (fair-esm) on random weights, and its alphabet, limit and names."""

import re

import pytest
import torch

from virnuc_dagster.embedding.esm2 import (
    ALPHABET,
    Esm2Config,
    Esm2Encoder,
    Esm2Model,
    rotary_tables,
    rotate,
    tokenize_protein,
)
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.errors import BundleError

esm = pytest.importorskip("esm", reason="fair-esm, the reference program, is not installed")

CPU = torch.device("cpu")
PROTEINS = ["M", "MKTAYIAKQR", "ACDEFGHIKLMNPQRSTVWY" * 8 + "XBUZO", "LAGV" * 41]
FROM_FAIR = [
    (r"^embed_tokens\.", "embeddings.word_embeddings."),
    (r"^emb_layer_norm_after\.", "encoder.emb_layer_norm_after."),
    (r"^layers\.", "encoder.layer."),
    (r"self_attn\.([qkv])_proj", lambda m: "attention.self." + {"q": "query", "k": "key", "v": "value"}[m[1]]),
    (r"self_attn\.out_proj", "attention.output.dense"),
    (r"self_attn_layer_norm", "attention.LayerNorm"),
    (r"fc1", "intermediate.dense"),
    (r"fc2", "output.dense"),
    (r"final_layer_norm", "LayerNorm"),
    (r"self_attn\.rot_emb", "attention.self.rotary_embeddings"),
]


def hugging_face_name(name: str) -> str:
    for pattern, new in FROM_FAIR:
        name = re.sub(pattern, new, name)
    return name


def config(width: int, layers: int, heads: int) -> Esm2Config:
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return Esm2Config.from_dict({"hidden_size": width, **sizes})


def reference(width: int, layers: int, heads: int) -> torch.nn.Module:
    """A fair-esm model with random weights that are wide enough for its attention to matter."""
    torch.manual_seed(width)
    model = esm.ESM2(layers, width, heads, alphabet="ESM-1b").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5 if parameter.ndim == 1 else 1.5 * width**-0.5)
    return model


def reference_vectors(model: torch.nn.Module, proteins: list[str]) -> torch.Tensor:
    """Pool as the original program does, in one padded batch."""
    _, _, tokens = model.alphabet.get_batch_converter()([("", protein) for protein in proteins])
    with torch.no_grad():
        hidden = model(tokens, repr_layers=[model.num_layers])["representations"][model.num_layers]
    return torch.stack([hidden[i, 1 : len(protein) + 1].mean(0) for i, protein in enumerate(proteins)])


def encoder_of(model: torch.nn.Module, heads: int, *, precision: torch.dtype = torch.float32) -> Esm2Encoder:
    own = Esm2Model(config(model.embed_dim, model.num_layers, heads))
    own.load_published({f"esm.{hugging_face_name(name)}": tensor for name, tensor in model.state_dict().items()})
    return Esm2Encoder(own.pack(precision, CPU), "test", CPU)


@pytest.mark.parametrize(("width", "layers", "heads"), [(320, 6, 20), (96, 3, 4)])  # the first is the published 8M
def test_pooled_embeddings_equal_fair_esm(width, layers, heads):
    model = reference(width, layers, heads)

    found = embed(encoder_of(model, heads), list("abcd"), PROTEINS, token_budget=400)

    torch.testing.assert_close(found, reference_vectors(model, PROTEINS), rtol=0, atol=2e-5)


def test_bfloat16_stays_close_to_fair_esm():
    model = reference(96, 3, 4)
    expected = reference_vectors(model, PROTEINS)

    found = embed(encoder_of(model, 4, precision=torch.bfloat16), list("abcd"), PROTEINS, token_budget=400)

    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, expected).min() > 0.995
    assert not torch.equal(found, expected)


def test_alphabet_is_that_of_fair_esm():
    assert list(ALPHABET) == esm.Alphabet.from_architecture("ESM-1b").all_toks


def test_tokens_have_both_ends_and_unknown_letters():
    assert tokenize_protein("LA*") == [0, 4, 5, 3, 2]


def test_only_the_first_1024_residues_count():
    encoder = Esm2Encoder(Esm2Model(config(16, 1, 2)), "test", CPU)

    long, cut = embed(encoder, ["long", "cut"], ["MK" * 600, "MK" * 512], token_budget=2000)

    assert torch.equal(long, cut)


def test_rotary_frequencies_stay_float32_in_half_precision():
    cos, sin = rotary_tables(1024, 64)
    x = torch.randn(1, 1, 1024, 64, generator=torch.Generator().manual_seed(0))

    turned = rotate(x.bfloat16(), cos, sin)

    assert cos.dtype == sin.dtype == torch.float32
    assert cos[1000, 3].item() == pytest.approx(torch.tensor(1000 / 10000 ** (6 / 64)).cos().item(), abs=1e-4)
    torch.testing.assert_close(turned.float(), rotate(x.bfloat16().float(), cos, sin), rtol=0.01, atol=0.01)


def test_scaling_of_the_embeddings_can_be_off_by_configuration():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}

    assert Esm2Model(Esm2Config.from_dict(sizes)).embedding_scale == pytest.approx(0.88)
    assert Esm2Model(Esm2Config.from_dict(sizes | {"token_dropout": False})).embedding_scale == 1


def test_output_heads_are_passed_over_and_strangers_named():
    model = Esm2Model(config(16, 1, 2))
    state = model.published_state()
    unused = {"lm_head.bias": torch.zeros(1), "esm.contact_head.regression.bias": torch.zeros(1)}

    model.load_published(state | unused)

    with pytest.raises(BundleError, match=r"unknown encoder\.layer\.9"):
        model.load_published(state | {"encoder.layer.9.output.dense.bias": torch.zeros(16)})


def test_another_kind_of_esm_is_refused():
    with pytest.raises(ValueError, match="position_embedding_type is 'absolute'"):
        Esm2Config.from_dict({"position_embedding_type": "absolute"} | vars(config(16, 1, 2)))


def test_names_are_those_of_hugging_face():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = vars(config(16, 1, 2)) | {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32}
    published = transformers.EsmForMaskedLM(transformers.EsmConfig(**sizes)).eval()
    model = Esm2Model(config(16, 1, 2))
    tokens = torch.tensor([tokenize_protein("MKTAYIAKQR")])

    model.load_published(published.state_dict())

    torch.testing.assert_close(model(tokens), published.esm(tokens)[0], rtol=0, atol=2e-5)
