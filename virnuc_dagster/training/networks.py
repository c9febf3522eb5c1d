"""The small networks that are trained: one encoder of each architecture, each with a head of its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from virnuc_dagster.classify.head import Head
from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSEncoder, DnabertSModel
from virnuc_dagster.embedding.esm2 import ALPHABET, Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.training.tokens import (
    CODONS,
    FIRST_CODON,
    FIRST_PAIR,
    SPECIAL,
    VOCABULARY,
    codon_tokenizer,
    pair_tokens,
)

Part = Literal["dnabert_s", "esm2"]
PARTS: tuple[Part, Part] = ("dnabert_s", "esm2")
KIND_WEIGHT, TOKEN_WEIGHT = 0.2, 0.2
"""Weights of the helper losses beside the class's."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """Size of an encoder and of the head on top of it alone."""

    width: int
    layers: int
    heads: int
    inner: int
    hidden: int

    def config(self) -> dict[str, Any]:
        """Make the entries of a Hugging Face style configuration that both architectures share."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "hidden_act": "gelu",
        }


class Member(nn.Module):
    """An encoder with a head of its own, and helper outputs that are thrown away after training.

    The helpers predict masked tokens, which teaches the encoder what genes look like, and the category of a record.

    Args:
        size: Size of encoder and head.
        kinds: Number of categories, counted by label and category.
        tokens: Outputs of the token helper.
    """

    part: Part
    model_id: str
    encoder: DnabertSModel | Esm2Model

    def __init__(self, size: Size, kinds: int, tokens: int) -> None:
        super().__init__()
        self.size = size
        self.head = Head(size.width, size.hidden)
        self.kind = nn.Linear(size.width, kinds)
        self.token = nn.Linear(size.width, tokens)

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Configuration of the encoder, as it goes into the bundle."""

    @abstractmethod
    def tokens(self, middle: torch.Tensor) -> torch.Tensor:
        """Make tokens (B, T) of equally long crops of codons or residues, int64 (B, C)."""

    @abstractmethod
    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Average the last hidden state (B, T, D) over what the product pools (method.md §4)."""

    @abstractmethod
    def masked_loss(self, hidden: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Compute the loss of predicting masked tokens (M,) from their hidden states (M, D)."""

    @abstractmethod
    def plain(self) -> DnabertSModel | Esm2Model:
        """Return the encoder as the bundle holds it."""

    @abstractmethod
    def as_encoder(self) -> DnabertSEncoder | Esm2Encoder:
        """Pack the encoder for inference, as the product uses it."""

    def files(self) -> dict[str, str]:
        """Write the text of each further file that the encoder needs (`registry.EncoderSpec.files`)."""
        return {}

    mask: int
    first_token: int

    def loss(
        self, middle: torch.Tensor, virus: torch.Tensor, kind: torch.Tensor, random: torch.Generator, masked: float
    ) -> torch.Tensor:
        """Compute the training loss of equally long crops.

        Args:
            middle: Codons or residues, int64 (B, C).
            virus: Class of each, (B,).
            kind: Category of each, (B,).
            random: Decides which tokens are masked, and what is dropped; no other random numbers are used.
            masked: Share of tokens to mask.
        """
        tokens = self.tokens(middle)
        hide = (torch.rand(tokens.shape, generator=random) < masked) & (tokens >= self.first_token)
        hidden = self.encoder(tokens.masked_fill(hide, self.mask))
        pooled = self.pool(hidden)
        inner = F.relu(self.head.bn1(self.head.hidden_layer(pooled)))
        kept = torch.rand(inner.shape, generator=random) >= self.head.dropout.p
        logits = self.head.output_layer(inner * kept / (1 - self.head.dropout.p))
        loss = F.cross_entropy(logits, virus, label_smoothing=0.05)
        loss = loss + KIND_WEIGHT * F.cross_entropy(self.kind(pooled), kind)
        return loss + TOKEN_WEIGHT * self.masked_loss(hidden[hide], tokens[hide]) if hide.any() else loss


def _initialise(encoder: nn.Module) -> None:
    for child in encoder.modules():
        if isinstance(child, (nn.Linear, nn.Embedding)):
            nn.init.normal_(child.weight, std=0.02 if isinstance(child, nn.Linear) else 0.1)


class PairEmbedding(nn.Module):
    """Embedding of a pair of codons: first + second + a part of its own; rare pairs learn from frequent ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Embedding(FIRST_PAIR, width)
        self.second = nn.Embedding(len(CODONS) + 1, width)  # the last one stands for no second codon
        self.pair = nn.Embedding(len(CODONS) ** 2, width)
        self.embedding_dim = width

    def table(self) -> torch.Tensor:
        """Add up the embedding of every token, (V, D)."""
        special, first = self.first.weight[:FIRST_CODON], self.first.weight[FIRST_CODON:]
        pairs = (first[:, None] + self.second.weight[None, :-1]).flatten(0, 1) + self.pair.weight
        return torch.cat((special, first + self.second.weight[-1], pairs))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed tokens (B, T) to (B, T, D)."""
        return F.embedding(tokens, self.table())


class CodonMember(Member):
    """The DNABERT-S architecture on pairs of codons."""

    part, model_id = "dnabert_s", "virnuc-codon-pairs"
    mask, first_token = SPECIAL.index("[MASK]"), FIRST_PAIR

    def __init__(self, size: Size, kinds: int) -> None:
        super().__init__(size, kinds, tokens=2 * len(CODONS))
        self.encoder = DnabertSModel(DnabertSConfig.from_dict(self.config))
        self.encoder.word_embeddings = PairEmbedding(size.width)  # type: ignore[assignment]
        _initialise(self.encoder)
        nn.init.zeros_(self.embedding.pair.weight)

    @property
    def embedding(self) -> PairEmbedding:
        """The embeddings in their parts."""
        return self.encoder.word_embeddings  # type: ignore[return-value]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, see `Member`."""
        own = {"model_type": "bert", "vocab_size": VOCABULARY, "layer_norm_eps": 1e-12, "type_vocab_size": 2}
        return own | self.size.config()

    def tokens(self, middle: torch.Tensor) -> torch.Tensor:
        """Do what `Member` says."""
        return pair_tokens(middle)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Do what `Member` says."""
        return hidden.mean(1)

    def masked_loss(self, hidden: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Predict both codons of a pair, each for itself."""
        logits, pair = self.token(hidden), truth - FIRST_PAIR
        first, second = logits.split(len(CODONS), dim=1)
        return (F.cross_entropy(first, pair // len(CODONS)) + F.cross_entropy(second, pair % len(CODONS))) / 2

    def plain(self) -> DnabertSModel:
        """Do what `Member` says; the parts of the embeddings are added up."""
        state = {name: tensor for name, tensor in self.encoder.state_dict().items() if "word_embeddings" not in name}
        model = DnabertSModel(DnabertSConfig.from_dict(self.config))
        model.load_state_dict(state | {"word_embeddings.weight": self.embedding.table().detach()})
        return model

    def as_encoder(self) -> DnabertSEncoder:
        """Do what `Member` says."""
        return DnabertSEncoder(self.plain().pack(torch.float32, _CPU), codon_tokenizer(), self.part, _CPU)

    def files(self) -> dict[str, str]:
        """See `Member`."""
        return {"tokenizer": codon_tokenizer().to_str(pretty=True)}


class ProteinMember(Member):
    """The ESM-2 architecture."""

    part, model_id = "esm2", "virnuc-protein"
    mask, first_token = ALPHABET.index("<mask>"), ALPHABET.index("L")

    def __init__(self, size: Size, kinds: int) -> None:
        super().__init__(size, kinds, tokens=len(ALPHABET))
        self.encoder = Esm2Model(Esm2Config.from_dict(self.config))
        _initialise(self.encoder)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, see `Member`."""
        own = {"model_type": "esm", "vocab_size": len(ALPHABET), "layer_norm_eps": 1e-5}
        return own | {"position_embedding_type": "rotary", "token_dropout": True} | self.size.config()

    def tokens(self, middle: torch.Tensor) -> torch.Tensor:
        """Do what `Member` says."""
        ends = torch.zeros(len(middle), 1, dtype=torch.int64)
        return torch.cat((ends + ALPHABET.index("<cls>"), middle, ends + ALPHABET.index("<eos>")), dim=1)

    def pool(self, hidden: torch.Tensor) -> torch.Tensor:
        """Do what `Member` says."""
        return hidden[:, 1:-1].mean(1)

    def masked_loss(self, hidden: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Do what `Member` says."""
        return F.cross_entropy(self.token(hidden), truth)

    def plain(self) -> Esm2Model:
        """Do what `Member` says."""
        assert isinstance(self.encoder, Esm2Model)
        return self.encoder

    def as_encoder(self) -> Esm2Encoder:
        """Do what `Member` says."""
        return Esm2Encoder(self.plain().pack(torch.float32, _CPU), self.part, _CPU)


MEMBERS: dict[Part, type[CodonMember] | type[ProteinMember]] = {"dnabert_s": CodonMember, "esm2": ProteinMember}
