"""The small networks that are trained: one encoder of each architecture, each with a head of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from virnuc_dagster.classify.head import Head
from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSEncoder, DnabertSModel
from virnuc_dagster.embedding.esm2 import ALPHABET, Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.training.frames import CODONS, SPECIAL, codon_tokenizer

Part = Literal["dnabert_s", "esm2"]
PARTS: tuple[Part, Part] = ("dnabert_s", "esm2")


@dataclass(frozen=True)
class Size:
    """Size of an encoder and of the head on top of it alone."""

    width: int
    layers: int
    heads: int
    inner: int
    hidden: int


SIZES: dict[Part, Size] = {"dnabert_s": Size(128, 4, 4, 192, 64), "esm2": Size(96, 3, 4, 256, 64)}


def config_of(part: Part, size: Size) -> dict[str, Any]:
    """Hugging Face style configuration, as it goes into the bundle."""
    shared = {
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.inner,
        "hidden_act": "gelu",
    }
    if part == "dnabert_s":
        vocabulary = len(SPECIAL) + len(CODONS)
        return {"model_type": "bert", "vocab_size": vocabulary, "layer_norm_eps": 1e-12, "type_vocab_size": 2, **shared}
    return {
        "model_type": "esm",
        "vocab_size": len(ALPHABET),
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        **shared,
    }


class Member(nn.Module):
    """An encoder with a head of its own, and helper outputs that are thrown away after training.

    The helpers predict masked tokens, which teaches the encoder what genes look like, and the category of a record.

    Args:
        part: Which architecture.
        size: Its size.
        kinds: Number of categories, counted by label and category.
    """

    def __init__(self, part: Part, size: Size, kinds: int) -> None:
        super().__init__()
        self.part, self.size = part, size
        config = config_of(part, size)
        self.encoder: DnabertSModel | Esm2Model
        if part == "dnabert_s":
            self.encoder = DnabertSModel(DnabertSConfig.from_dict(config))
            self.mask, self.first_token = SPECIAL.index("[MASK]"), len(SPECIAL)
        else:
            self.encoder = Esm2Model(Esm2Config.from_dict(config))
            self.mask, self.first_token = ALPHABET.index("<mask>"), ALPHABET.index("L")
        self.head = Head(size.width, size.hidden)
        self.kind = nn.Linear(size.width, kinds)
        self.token = nn.Linear(size.width, config["vocab_size"])
        for child in self.encoder.modules():
            if isinstance(child, (nn.Linear, nn.Embedding)):
                nn.init.normal_(child.weight, std=0.02 if isinstance(child, nn.Linear) else 0.1)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Mean of the last hidden state (B, T, D) over what the product pools (method.md §4)."""
        return hidden.mean(1) if self.part == "dnabert_s" else hidden[:, 1:-1].mean(1)

    def loss(
        self, tokens: torch.Tensor, virus: torch.Tensor, kind: torch.Tensor, random: torch.Generator, masked: float
    ) -> torch.Tensor:
        """Training loss of equally long crops.

        Args:
            tokens: (B, T), special tokens included.
            virus: Class of each, (B,).
            kind: Category of each, (B,).
            random: Decides which tokens are masked.
            masked: Share of tokens to mask.
        """
        hide = (torch.rand(tokens.shape, generator=random) < masked) & (tokens >= self.first_token)
        hidden = self.encoder(tokens.masked_fill(hide, self.mask))
        pooled = self.pool(hidden)
        loss = F.cross_entropy(self.head(pooled), virus, label_smoothing=0.05)
        loss = loss + KIND_WEIGHT * F.cross_entropy(self.kind(pooled), kind)
        return loss + TOKEN_WEIGHT * F.cross_entropy(self.token(hidden[hide]), tokens[hide])

    def as_encoder(self, model_id: str) -> DnabertSEncoder | Esm2Encoder:
        """The encoder as the product uses it, packed for inference; this one stays trainable."""
        cpu = torch.device("cpu")
        packed = self.encoder.pack(torch.float32, cpu)
        if self.part == "dnabert_s":
            return DnabertSEncoder(packed, codon_tokenizer(), model_id, cpu)  # type: ignore[arg-type]
        return Esm2Encoder(packed, model_id, cpu)  # type: ignore[arg-type]


KIND_WEIGHT, TOKEN_WEIGHT = 0.2, 0.2
"""Weights of the helper losses beside the class's."""
