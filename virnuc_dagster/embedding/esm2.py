"""ESM-2: the protein encoder in plain PyTorch, its alphabet and its pooling.

Architecture: Lin et al. 2023 (doi:10.1126/science.ade2574): rotary positions, LayerNorm before attention and
feed-forward, a final LayerNorm. Names of weights are those of Hugging Face `EsmModel`. What is embedded and pooled:
method.md §4. Downloading and verifying weights belongs to `virnuc_dagster.models`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from virnuc_dagster.embedding.layers import Embedding, Linear, attend, config_from, load_published, norm_of, to_device
from virnuc_dagster.embedding.packed import PackedLinear
from virnuc_dagster.embedding.registry import Source

ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
"""The 33 tokens of ESM-2; a token's place is its id."""

MAX_RESIDUES = 1024
"""Residues of a protein that are embedded; longer ones are cut (never met at windows of 300 or 500 bases)."""

_CLS, _EOS, _UNK = 0, 2, 3
_IDS = bytes(ALPHABET.index(chr(code)) if chr(code) in ALPHABET else _UNK for code in range(256))
_UNMASKED_SCALE = 1 - 0.15 * 0.8  # token dropout of the training, applied to the embeddings of an unmasked protein

_PUBLISHED = {
    "word_embeddings": "embeddings.word_embeddings",
    "layers": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "LayerNorm",
    "final_norm": "encoder.emb_layer_norm_after",
}
ROTARY_BUFFER = "rotary_embeddings.inv_freq"
"""How the names of stored rotary frequencies end, one a layer or one of all; `rotary_tables` makes them anew."""

_UNUSED = ("lm_head.", "contact_head.", "pooler.", "embeddings.position_ids", "embeddings.position_embeddings.")


@dataclass(frozen=True)
class Esm2Config:
    """Sizes of an ESM-2 encoder, named as in the published `config.json`."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int = len(ALPHABET)
    layer_norm_eps: float = 1e-5
    token_dropout: bool = True

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Esm2Config:
        """Take the needed entries of a Hugging Face style configuration.

        Raises:
            ValueError: A needed entry is missing, or the configuration is not of an ESM-2.
        """
        expected = {
            "hidden_act": "gelu",
            "position_embedding_type": "rotary",
            "emb_layer_norm_before": False,
            "vocab_size": len(ALPHABET),
            "rope_theta": 10000,
        }
        return config_from(cls, config, expected=expected)


def rotary_tables(length: int, width: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary positions, always float32, each (T, K).

    Source: Su et al. 2021 (RoFormer, arXiv:2104.09864), base 10,000, halves rotated against each other. They are made
    anew rather than kept as a buffer, so that no cast of the model can touch the frequencies (method.md §4).

    Args:
        length: Tokens T.
        width: Width K of one head.
        device: Where to put the tables.
    """
    frequency = 1.0 / (10000 ** (torch.arange(0, width, 2, device=device, dtype=torch.float32) / width))
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency[None, :]
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys (B, H, T, K) by their positions, computed in float32, returned in the format of `x`."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class _Layer(nn.Module):
    """One encoder layer: attention and feed-forward, each behind a LayerNorm and added to the residual."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.attention_out = Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.up = Linear(width, config.intermediate_size)
        self.down = Linear(config.intermediate_size, width)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        normed = self.attention_norm(x)
        q, k, v = (
            linear(normed).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for linear in (self.query, self.key, self.value)
        )
        x = x + self.attention_out(attend(rotate(q, cos, sin), rotate(k, cos, sin), v)).float()
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)))).float()


class Esm2Model(nn.Module):
    """Token ids (B, T) of one exact length -> last hidden state after the final LayerNorm, float32 (B, T, D)."""

    def __init__(self, config: Esm2Config) -> None:
        super().__init__()
        self.head_width = config.hidden_size // config.num_attention_heads
        self.embedding_scale = _UNMASKED_SCALE if config.token_dropout else 1.0
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode token ids, `<cls>` and `<eos>` included.

        Args:
            tokens: int64 (B, T), without padding and without `<mask>`.

        Returns:
            Last hidden state after the final LayerNorm, float32 (B, T, D).
        """
        x = self.word_embeddings(tokens) * self.embedding_scale
        cos, sin = rotary_tables(tokens.shape[1], self.head_width, tokens.device)
        for layer in self.layers:
            x = layer(x, cos, sin)
        hidden: torch.Tensor = self.final_norm(x)
        return hidden

    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take weights with the names of Hugging Face `EsmModel` (see `layers.load_published`)."""
        kept = {name: tensor for name, tensor in state.items() if not name.endswith(ROTARY_BUFFER)}
        load_published(self, kept, published_name, prefixes=("esm.",), unused=_UNUSED)

    def pack(self, dtype: torch.dtype, device: torch.device) -> PackedEsm2:
        """Make the network for inference; this one stays as it is, trainable.

        Args:
            dtype: Precision of the matrix products.
            device: Where to compute.
        """
        return PackedEsm2(self, dtype, device)

    def published_state(self) -> dict[str, torch.Tensor]:
        """Return the weights under their published names."""
        return {published_name(name): tensor.contiguous() for name, tensor in self.state_dict().items()}


class _PackedLayer:
    """An `_Layer` for inference: queries, keys and values in one product; rotary pairs side by side.

    The rows of the query and key weights are re-ordered so that the two halves which the rotary positions turn against
    each other interleave: a turn is then one complex product, in place, and attention scores do not change.
    """

    def __init__(self, layer: _Layer, dtype: torch.dtype, device: torch.device) -> None:
        self.heads = layer.heads
        weight = [_interleaved(layer.query.weight, self.heads), _interleaved(layer.key.weight, self.heads)]
        bias = [_interleaved(layer.query.bias, self.heads), _interleaved(layer.key.bias, self.heads)]
        self.qkv = PackedLinear(
            torch.cat([*weight, layer.value.weight]), torch.cat([*bias, layer.value.bias]), dtype, device
        )
        self.attention_out, self.up, self.down = (
            PackedLinear(linear.weight, linear.bias, dtype, device)
            for linear in (layer.attention_out, layer.up, layer.down)
        )
        self.attention_norm, self.mlp_norm = norm_of(layer.attention_norm, device), norm_of(layer.mlp_norm, device)

    def __call__(self, x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """Add the layer to the residual x, float32 (B, T, D), in place."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))  # (B, T, 3, H, K)
        q, k, v = attention_inputs(qkv, turn)
        x += self.attention_out(attend(q, k, v))
        x += self.down(self.up(self.mlp_norm(x), gelu=True))
        return x


def _interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Re-order the rows (D, ...) of each head from halves to pairs."""
    return rows.detach().unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def attention_inputs(qkv: torch.Tensor, turn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn queries and keys by their positions, in float32.

    Args:
        qkv: (B, T, 3, H, K), rotary pairs side by side; overwritten if it is float32.
        turn: Complex turns (T, 1, 1, K / 2).

    Returns:
        q, k, v, each (B, H, T, K); float32 on a CPU, whose attention is fastest so, else in the format of `qkv`.
    """
    wide = qkv.float() if qkv.device.type == "cpu" else torch.cat((qkv[:, :, :2].float(), qkv[:, :, 2:].float()), dim=2)
    torch.view_as_complex(wide[:, :, :2].unflatten(-1, (-1, 2))).mul_(turn)
    mixed = wide if qkv.device.type == "cpu" else wide.to(qkv.dtype)
    q, k, v = mixed.permute(2, 0, 3, 1, 4)
    return q, k, v


class PackedEsm2:
    """`Esm2Model` for inference: same numbers up to rounding, same input and output.

    Residual, LayerNorm, rotary positions and softmax are float32 in every precision.
    """

    def __init__(self, model: Esm2Model, dtype: torch.dtype, device: torch.device) -> None:
        self.width = model.word_embeddings.embedding_dim
        self._head_width = model.head_width
        self._embeddings = (model.word_embeddings.weight.detach() * model.embedding_scale).to(device)
        self._layers = [_PackedLayer(cast(_Layer, layer), dtype, device) for layer in model.layers]
        self._final_norm = norm_of(model.final_norm, device)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `Esm2Model.forward`: int64 (B, T) -> float32 (B, T, D)."""
        x = F.embedding(tokens, self._embeddings)
        cos, sin = rotary_tables(tokens.shape[1], self._head_width, tokens.device)
        half = self._head_width // 2
        turn = torch.complex(cos[:, :half], sin[:, :half])[:, None, None]
        for layer in self._layers:
            x = layer(x, turn)
        return self._final_norm(x)


def published_name(name: str) -> str:
    """Translate a parameter name of `Esm2Model` into the published one."""
    return ".".join(_PUBLISHED.get(part, part) for part in name.split("."))


def tokenize_protein(residues: str) -> list[int]:
    """Token ids of a protein's first 1,024 residues, `<cls>` first and `<eos>` last; unknown letters are `<unk>`."""
    return [_CLS, *residues[:MAX_RESIDUES].encode("latin-1", "replace").translate(_IDS), _EOS]


class Esm2Encoder:
    """ESM-2 as the runner uses it: proteins of frames in, pooled float32 vectors out.

    Args:
        model: The network, on `device`; `Esm2Model.pack` makes the fast one.
        model_id: Name for messages and records.
        device: Where the model is.
    """

    def __init__(self, model: Esm2Model | PackedEsm2, model_id: str, device: torch.device) -> None:
        self.model = model.eval() if isinstance(model, Esm2Model) else model
        self.model_id = model_id
        self.dim = model.word_embeddings.embedding_dim if isinstance(model, Esm2Model) else model.width
        self._device = device

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each protein, see `tokenize_protein`."""
        return [tokenize_protein(text) for text in texts]

    @torch.inference_mode()
    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean of the last hidden state over the residues, without `<cls>` and `<eos>` (method.md §4).

        Args:
            tokens: int64 (B, T) of one exact length, on any device.

        Returns:
            float32 (B, D), where the model is.
        """
        hidden: torch.Tensor = self.model(to_device(tokens, self._device))
        return hidden[:, 1:-1].mean(dim=1)


def load(source: Source) -> Esm2Encoder:
    """Load ESM-2, see `registry.EncoderSpec.load`."""
    with torch.device("meta"):
        model = Esm2Model(Esm2Config.from_dict(source.config))
    return Esm2Encoder(source.pack(model), source.id, source.device)
