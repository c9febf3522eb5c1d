"""DNABERT-S: the DNABERT-2 / MosaicBERT encoder in plain PyTorch, its tokeniser and its pooling.

Architecture: Zhou et al. 2024 (DNABERT-2, arXiv:2306.15006) and Portes et al. 2023 (MosaicBERT, arXiv:2312.17482):
no positions but ALiBi, one fused query-key-value matrix, gated GELU feed-forward, LayerNorm after the residual. What is
embedded and pooled: method.md §4. Downloading and verifying weights belongs to `virnuc_dagster.models`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from virnuc_dagster.embedding.layers import Embedding, Linear, attend, config_from, load_published, norm_of, to_device
from virnuc_dagster.embedding.packed import PackedLinear
from virnuc_dagster.embedding.registry import Source

_PUBLISHED = {
    "word_embeddings": "embeddings.word_embeddings",
    "token_type_embeddings": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "layers": "encoder.layer",
    "qkv": "attention.self.Wqkv",
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "gated": "mlp.gated_layers",
    "down": "mlp.wo",
    "mlp_norm": "mlp.layernorm",
}
_UNUSED = ("pooler.", "cls.", "embeddings.position_ids", "embeddings.position_embeddings")


@dataclass(frozen=True)
class DnabertSConfig:
    """Sizes of a DNABERT-2 encoder, named as in the published `config.json`.

    The published `pad_token_id` (0) contradicts the tokeniser ([PAD] is 3); nothing is padded here, so neither is used.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 2

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> DnabertSConfig:
        """Take the needed entries of a Hugging Face style configuration.

        Raises:
            ValueError: A needed entry is missing, or the configuration is of another architecture.
        """
        return config_from(cls, config, expected={"hidden_act": "gelu"})


def alibi_slopes(heads: int) -> list[float]:
    """Slope of the linear attention bias of each head.

    For a power of two n the slopes are 2^(-8/n), 2^(-16/n), ...; for other counts those of the closest smaller power of
    two, followed by every second slope of twice that.

    Source: Press et al. 2022 (ALiBi, arXiv:2108.12409) and the program published with it.
    """
    closest = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / closest) for i in range(closest)]
    return slopes if closest == heads else slopes + alibi_slopes(2 * closest)[::2][: heads - closest]


def alibi_bias(heads: int, length: int, device: torch.device | None = None) -> torch.Tensor:
    """Attention bias -slope * |i - j| of an encoder, float32 (H, T, T)."""
    position = torch.arange(length, device=device)
    distance = (position[:, None] - position[None, :]).abs()
    return -torch.tensor(alibi_slopes(heads), device=device)[:, None, None] * distance


class _Layer(nn.Module):
    """One encoder layer: attention and gated feed-forward, each with its residual and LayerNorm."""

    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.gated = Linear(width, 2 * inner, bias=False)
        self.down = Linear(inner, width)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T, K)
        x = self.attention_norm(x + self.attention_out(attend(q, k, v, bias=bias)).float())
        gate, up = self.gated(x).chunk(2, dim=-1)
        return self.mlp_norm(x + self.down(F.gelu(gate) * up).float())


class DnabertSModel(nn.Module):
    """Token ids (B, T) of one exact length -> last hidden state, float32 (B, T, D)."""

    def __init__(self, config: DnabertSConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.embedding_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode token ids, [CLS] and [SEP] included.

        Args:
            tokens: int64 (B, T), no padding.

        Returns:
            Last hidden state, float32 (B, T, D).
        """
        x = self.embedding_norm(self.word_embeddings(tokens) + self.token_type_embeddings.weight[0])
        bias = alibi_bias(self.heads, tokens.shape[1], tokens.device)
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take weights with the published state-dict names (see `layers.load_published`)."""
        load_published(self, state, published_name, prefixes=("bert.",), unused=_UNUSED)

    def pack(self, dtype: torch.dtype, device: torch.device) -> PackedDnabertS:
        """Make the network for inference; this one stays as it is, trainable.

        Args:
            dtype: Precision of the matrix products.
            device: Where to compute.
        """
        return PackedDnabertS(self, dtype, device)

    def published_state(self) -> dict[str, torch.Tensor]:
        """Return the weights under their published names."""
        return {published_name(name): tensor.contiguous() for name, tensor in self.state_dict().items()}


class _PackedLayer:
    """A `_Layer` for inference: the gate, with its GELU fused, and its factor are products of their own."""

    def __init__(self, layer: _Layer, dtype: torch.dtype, device: torch.device) -> None:
        self.heads = layer.heads
        gate, up = layer.gated.weight.chunk(2)
        self.gate, self.up = (PackedLinear(weight, None, dtype, device) for weight in (gate, up))
        self.qkv, self.attention_out, self.down = (
            PackedLinear(linear.weight, linear.bias, dtype, device)
            for linear in (layer.qkv, layer.attention_out, layer.down)
        )
        self.attention_norm, self.mlp_norm = norm_of(layer.attention_norm, device), norm_of(layer.mlp_norm, device)

    def __call__(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Residual x, float32 (B, T, D), through the layer; x is overwritten."""
        qkv = self.qkv(x)
        if qkv.device.type == "cpu":
            qkv = qkv.float()  # attention in float32 is the fastest on a CPU
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, T, K)
        x = self.attention_norm(x.add_(self.attention_out(attend(q, k, v, bias=bias))))
        narrow = x.to(self.gate.dtype)
        x += self.down(self.gate(narrow, gelu=True).mul_(self.up(narrow)))
        return self.mlp_norm(x)


class PackedDnabertS:
    """`DnabertSModel` for inference: same numbers up to rounding, same input and output.

    Residual, LayerNorm, attention bias and softmax are float32 in every precision.
    """

    def __init__(self, model: DnabertSModel, dtype: torch.dtype, device: torch.device) -> None:
        self.width = model.word_embeddings.embedding_dim
        self._heads = model.heads
        embeddings = model.word_embeddings.weight.detach() + model.token_type_embeddings.weight.detach()[0]
        self._embeddings = embeddings.to(device)
        self._embedding_norm = norm_of(model.embedding_norm, device)
        self._layers = [_PackedLayer(cast(_Layer, layer), dtype, device) for layer in model.layers]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `DnabertSModel.forward`: int64 (B, T) -> float32 (B, T, D)."""
        x = self._embedding_norm(F.embedding(tokens, self._embeddings))
        bias = alibi_bias(self._heads, tokens.shape[1], tokens.device)
        for layer in self._layers:
            x = layer(x, bias)
        return x


def published_name(name: str) -> str:
    """Translate a parameter name of `DnabertSModel` into the published one."""
    return ".".join(_PUBLISHED.get(part, part) for part in name.split("."))


class DnabertSEncoder:
    """DNABERT-S as the runner uses it: nucleotide text of frames in, pooled float32 vectors out.

    Args:
        model: The network, on `device`; `DnabertSModel.pack` makes the fast one.
        tokenizer: The tokeniser that belongs to it; its post-processor adds [CLS] and [SEP].
        model_id: Name for messages and records.
        device: Where the model is.
    """

    def __init__(
        self, model: DnabertSModel | PackedDnabertS, tokenizer: Tokenizer, model_id: str, device: torch.device
    ) -> None:
        self.model = model.eval() if isinstance(model, DnabertSModel) else model
        self.model_id = model_id
        self.dim = model.word_embeddings.embedding_dim if isinstance(model, DnabertSModel) else model.width
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._device = device

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each nucleotide text, [CLS] first and [SEP] last."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    @torch.inference_mode()
    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mean of the last hidden state over all tokens, [CLS] and [SEP] included (method.md §4).

        Args:
            tokens: int64 (B, T) of one exact length, on any device.

        Returns:
            float32 (B, D), where the model is.
        """
        hidden: torch.Tensor = self.model(to_device(tokens, self._device))
        return hidden.mean(dim=1)


def load(source: Source) -> DnabertSEncoder:
    """Load DNABERT-S with its tokeniser, see `registry.EncoderSpec.load`."""
    config, text = DnabertSConfig.from_dict(source.config), source.read("tokenizer")
    try:
        tokenizer = Tokenizer.from_buffer(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(str(error)) from error
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise ValueError(f"tokeniser of {tokenizer.get_vocab_size()}, vocabulary {config.vocab_size}")
    with torch.device("meta"):
        model = DnabertSModel(config)
    return DnabertSEncoder(source.pack(model), tokenizer, source.id, source.device)
