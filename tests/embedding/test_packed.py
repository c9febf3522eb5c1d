"""The fast path against the slow one: packed linears, their fallback, and both encoders at full depth."""

import pytest
import torch
import torch.nn.functional as F

from virnuc_dagster.embedding import packed
from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel, alibi_slopes
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Model
from virnuc_dagster.embedding.packed import PackedLinear, packing_works
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.models.bundle import open_bundle

CPU = torch.device("cpu")
SMALL = Esm2Config(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of the largest value


@pytest.fixture(autouse=True)
def one_thread():
    """Small products gain nothing from threads, and on a busy machine the threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_onednn(monkeypatch):
    """A torch in which the private operators do not exist."""

    def missing(*_: object, **__: object) -> torch.Tensor:
        raise AttributeError("no such operator")

    packing_works.cache_clear()
    monkeypatch.setattr(packed, "_reorder", missing)
    yield
    packing_works.cache_clear()


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_a_packed_linear_is_the_plain_one(rows, dtype, gelu):
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(rows, 5, 48), torch.randn(80, 48), torch.randn(80)
    plain = F.linear(x.double(), weight.double(), bias.double())

    found = PackedLinear(weight, bias, dtype, CPU)(x, gelu=gelu)

    assert off(found, F.gelu(plain) if gelu else plain) <= TOLERANCE[dtype]


def test_without_the_operators_it_is_a_plain_linear(without_onednn):
    x, weight = torch.randn(9, 48), torch.randn(80, 48)

    linear = PackedLinear(weight, None, torch.float32, CPU)

    assert not linear.is_packed
    assert torch.equal(linear(x), F.linear(x, weight))


def test_operators_with_wrong_numbers_are_not_used(monkeypatch):
    packing_works.cache_clear()
    right = packed._packed_linear
    monkeypatch.setattr(packed, "_packed_linear", lambda *a, **k: right(*a, **k) * 1.001)

    try:
        assert not packing_works(torch.float32)
    finally:
        packing_works.cache_clear()


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights that are wide enough for attention to matter."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.ndim == 1 else 1.2 * parameter.shape[1] ** -0.5)
    return model.eval()


@torch.no_grad()
def test_packing_leaves_the_model_trainable_and_as_it_was():
    torch.manual_seed(1)
    model = spread(Esm2Model(SMALL))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.randint(4, 24, (3, 20))

    found = model.pack(torch.float32, CPU)(tokens)

    torch.testing.assert_close(found, model(tokens), rtol=0, atol=2e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_the_fallback_gives_the_same_embeddings(without_onednn):
    torch.manual_seed(2)
    model = spread(Esm2Model(SMALL))
    tokens = torch.randint(4, 24, (3, 20))

    torch.testing.assert_close(model.pack(torch.float32, CPU)(tokens), model(tokens), rtol=0, atol=2e-5)


def slow_dnabert_s(model: DnabertSModel, tokens: list[int]) -> torch.Tensor:
    """DNABERT-2 for one sequence, head by head in float64, from the published names of its weights."""
    state = {name: tensor.double() for name, tensor in model.published_state().items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = state["embeddings.word_embeddings.weight"][tokens] + state["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    place = torch.arange(len(tokens), dtype=torch.float64)
    for i in range(len(model.layers)):
        at = f"encoder.layer.{i}"
        weight, bias = state[f"{at}.attention.self.Wqkv.weight"], state[f"{at}.attention.self.Wqkv.bias"]
        q, k, v = (x @ weight.T + bias).chunk(3, dim=-1)
        mixed = []
        for slope, qh, kh, vh in zip(
            alibi_slopes(model.heads), *(part.chunk(model.heads, dim=-1) for part in (q, k, v)), strict=True
        ):
            scores = qh @ kh.T / qh.shape[1] ** 0.5 - slope * (place[:, None] - place).abs()
            mixed.append(scores.softmax(-1) @ vh)
        out = torch.cat(mixed, dim=-1) @ state[f"{at}.attention.output.dense.weight"].T
        x = norm(x + out + state[f"{at}.attention.output.dense.bias"], f"{at}.attention.output.LayerNorm")
        gate, up = (x @ state[f"{at}.mlp.gated_layers.weight"].T).chunk(2, dim=-1)
        gated = 0.5 * gate * (1 + torch.erf(gate / 2**0.5)) * up
        x = norm(x + gated @ state[f"{at}.mlp.wo.weight"].T + state[f"{at}.mlp.wo.bias"], f"{at}.mlp.layernorm")
    return x


@torch.no_grad()
def test_dnabert_s_at_full_depth_equals_a_slow_restatement():
    torch.manual_seed(3)
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    model = spread(DnabertSModel(DnabertSConfig(vocab_size=64, **sizes)))
    tokens = torch.randint(0, 64, (40,)).tolist()

    found = model.pack(torch.float32, CPU)(torch.tensor([tokens, tokens[::-1]])).mean(1)

    expected = torch.stack([slow_dnabert_s(model, t).mean(0) for t in (tokens, tokens[::-1])]).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert torch.cosine_similarity(found, expected).min() >= 1 - 1e-6


HALF_MARGIN = {"bfloat16": 0.05, "float16": 0.01}
CENTRED_COSINE = {"bfloat16": 0.999, "float16": 0.9999}


@pytest.mark.parametrize("precision", list(HALF_MARGIN))
def test_half_precision_keeps_embeddings_and_labels_of_mini(precision):
    """Centred cosine as stated; no label flips where float32 is further than the margin from one half."""
    from virnuc_dagster.classify.head import predict

    bundle = open_bundle("mini")
    generator = torch.Generator().manual_seed(4)
    dna, protein = (
        ["".join(letters[i] for i in row) for row in torch.randint(len(letters), (200, length), generator=generator)]
        for letters, length in (("ACGT", 300), ("LAGVSERTIDPKQNFYMHWC", 100))
    )
    ids = [str(i) for i in range(200)]

    def both(p: str) -> dict[str, torch.Tensor]:
        return {
            part: embed(bundle.load_encoder(part, CPU, p), ids, texts, token_budget=2048)
            for part, texts in (("dnabert_s", dna), ("esm2", protein))
        }

    reference, found = both("float32"), both(precision)

    for full, half in zip(reference.values(), found.values(), strict=True):
        centred = torch.cosine_similarity(full - full.mean(0), half - full.mean(0))
        assert centred.min() >= CENTRED_COSINE[precision]
    head = bundle.load_head(CPU)
    full, half = predict(head, reference)[:, 1], predict(head, found)[:, 1]
    clear = (full - 0.5).abs() > HALF_MARGIN[precision]
    assert clear.sum() > 50
    assert torch.equal(full[clear] > 0.5, half[clear] > 0.5)


@torch.no_grad()
def test_equal_batches_give_equal_bytes():
    torch.manual_seed(5)
    model = spread(Esm2Model(SMALL)).pack(torch.float32, CPU)
    tokens = torch.randint(4, 24, (5, 20))

    assert torch.equal(model(tokens), model(tokens.clone()))
