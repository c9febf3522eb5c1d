"""The mini networks and how they are trained: both encoders and the head together, on random crops of frames."""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from mini_data import CODONS, SPECIAL, Frames, codon_tokenizer
from torch import nn

from virnuc_dagster.classify.head import Head
from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSEncoder, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.embedding.runner import embed

VOCABULARY = len(SPECIAL) + len(CODONS)
DNA_CONFIG = {
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
}
PROTEIN_CONFIG = {
    "model_type": "esm",
    "vocab_size": 33,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "hidden_act": "gelu",
}
HIDDEN = 128
CPU = torch.device("cpu")


class Encoders:
    """Both encoders, freshly initialised."""

    def __init__(self) -> None:
        self.dna = DnabertSEncoder(DnabertSModel(DnabertSConfig.from_dict(DNA_CONFIG)), codon_tokenizer(), "dna", CPU)
        self.protein = Esm2Encoder(Esm2Model(Esm2Config.from_dict(PROTEIN_CONFIG)), "protein", CPU)
        for module in (self.dna.model, self.protein.model):
            for child in module.modules():
                if isinstance(child, (nn.Linear, nn.Embedding)):
                    nn.init.normal_(child.weight, std=0.02 if isinstance(child, nn.Linear) else 0.1)

    def features(self, frames: Frames) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed whole frames as the product does: (N, Dd) and (N, Dp)."""
        ids = [str(i) for i in range(len(frames.residues))]
        return (
            embed(self.dna, ids, frames.nucleotide, token_budget=8192),
            embed(self.protein, ids, frames.residues, token_budget=8192),
        )


class Network(nn.Module):
    """Encoders and head as one trainable network, with helper outputs that are thrown away after training.

    The helpers: a linear classifier on each embedding alone, so that neither encoder leans on the other, and the
    prediction of masked codons, which teaches the encoder what genes look like.
    """

    def __init__(self, encoders: Encoders) -> None:
        super().__init__()
        self.dna, self.protein = encoders.dna.model, encoders.protein.model
        dna_dim, protein_dim = encoders.dna.dim, encoders.protein.dim
        self.head = Head(dna_dim + protein_dim, HIDDEN)
        self.dna_alone, self.protein_alone = nn.Linear(dna_dim, 2), nn.Linear(protein_dim, 2)
        self.codon = nn.Linear(dna_dim, VOCABULARY)

    def loss(
        self, dna: torch.Tensor, protein: torch.Tensor, virus: torch.Tensor, random: torch.Generator, masked: float
    ) -> torch.Tensor:
        """Training loss of one batch of equally long crops, with a share of the codons masked."""
        hide = (torch.rand(dna.shape, generator=random) < masked) & (dna >= len(SPECIAL))
        hidden = self.dna(dna.masked_fill(hide, SPECIAL.index("[MASK]")))
        a, b = hidden.mean(1), self.protein(protein)[:, 1:-1].mean(1)
        loss = F.cross_entropy(self.head(torch.cat((a, b), 1)), virus, label_smoothing=0.05)
        loss = loss + 0.3 * (F.cross_entropy(self.dna_alone(a), virus) + F.cross_entropy(self.protein_alone(b), virus))
        return loss + 0.2 * F.cross_entropy(self.codon(hidden[hide]), dna[hide]) if masked else loss


def sampling_weights(frames: Frames) -> torch.Tensor:
    """Weight of each frame: half of the draws from viruses; within a class, categories by the root of their size."""
    weight = np.zeros(len(frames.category))
    virus = frames.virus.numpy()
    for label in (0, 1):
        categories, counts = np.unique(frames.category[virus == label], return_counts=True)
        share = np.sqrt(counts) / np.sqrt(counts).sum()
        for category, count, part in zip(categories, counts, share, strict=True):
            weight[(virus == label) & (frames.category == category)] = part / count
    return torch.from_numpy(weight)


def crop(tokens: torch.Tensor, start: torch.Tensor, size: int) -> torch.Tensor:
    """Cut `size` codons or residues out of each row and put the row's first and the closing token around them."""
    middle = tokens.gather(1, start[:, None] + torch.arange(1, size + 1))
    closing = torch.full((len(tokens), 1), 2)  # both [SEP] and <eos> are 2
    return torch.cat((tokens[:, :1], middle, closing), dim=1)


def train(frames: Frames, encoders: Encoders, arguments: argparse.Namespace) -> Head:
    """Train everything on random crops, keep a moving average of the weights, and return the head."""
    random = torch.Generator().manual_seed(arguments.seed)
    network = Network(encoders).train()
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=False
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=arguments.rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.rate, arguments.steps, pct_start=0.08)
    weights = sampling_weights(frames)
    begin, seen = time.monotonic(), 0.0
    for step in range(1, arguments.steps + 1):
        size = int(torch.randint(arguments.crop // 2, arguments.crop * 3 // 2, (1,), generator=random))
        count = arguments.batch * arguments.crop // size
        rows = torch.multinomial(weights * (frames.length >= size + 2), count, replacement=False, generator=random)
        start = (torch.rand(count, generator=random) * (frames.length[rows] - 1 - size)).long()
        loss = network.loss(
            crop(frames.dna[rows], start, size),
            crop(frames.protein[rows], start, size),
            frames.virus[rows],
            random,
            arguments.masked,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        seen += float(loss.detach())
        if step % 50 == 0:
            rate = step / (time.monotonic() - begin)
            print(
                f"step {step}/{arguments.steps}  loss {seen / 50:.4f}  {rate:.2f} steps/s", file=sys.stderr, flush=True
            )
            seen = 0.0
    network.load_state_dict(average.module.state_dict())
    network.eval()
    return settle_batch_norm(network.head, frames, encoders, weights, random)


def settle_batch_norm(
    head: Head, frames: Frames, encoders: Encoders, weights: torch.Tensor, random: torch.Generator
) -> Head:
    """Give the BatchNorm the statistics of whole frames under the final weights, not of crops under past ones."""
    rows = torch.multinomial(weights, min(4096, len(weights)), replacement=False, generator=random).tolist()
    ids = [str(row) for row in rows]
    dna = embed(encoders.dna, ids, [frames.nucleotide[row] for row in rows], token_budget=8192)
    protein = embed(encoders.protein, ids, [frames.residues[row] for row in rows], token_budget=8192)
    head.bn1.reset_running_stats()
    head.bn1.momentum = None
    with torch.no_grad():
        head.bn1.train()(head.hidden_layer(torch.cat((dna, protein), dim=1)))
    return head.eval()
