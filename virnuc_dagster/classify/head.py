"""The head: the small network that scores a frame from its embeddings (method.md §5).

Labels, windows and sequences are made from these scores elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from virnuc_dagster.embedding.registry import ENCODERS

_BLOCK_ROWS = 256
"""Rows of every matrix product of `predict`. Libraries choose other code, with other last bits, for few rows."""


class Head(nn.Module):
    """The head: Linear, BatchNorm, ReLU, Dropout, Linear; parameter names as in the published heads.

    Args:
        features: Width of the joined embeddings (3,328 for the published heads).
        hidden: Width of the hidden layer (512 for the published heads).
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(features, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(0.5)
        self.output_layer = nn.Linear(hidden, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute logits (N, 2), others and virus, of joined embeddings (N, F)."""
        hidden = F.relu(self.bn1(self.hidden_layer(features)))
        logits: torch.Tensor = self.output_layer(self.dropout(hidden))
        return logits


def in_order(embeddings: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Put the embeddings of each encoder in the order in which they are joined, that of the table.

    Raises:
        ValueError: There are none, or those of an encoder that the table lacks.
    """
    parts = [embeddings[encoder.part] for encoder in ENCODERS if encoder.part in embeddings]
    if not parts or len(parts) != len(embeddings):
        raise ValueError(f"no encoders of this program: {', '.join(embeddings) or 'none'}")
    return parts


@torch.inference_mode()
def predict(head: Head, embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Score frames from their embeddings.

    Rows are computed in blocks of one fixed size, the last one filled up, so that the scores of a frame do not depend
    on how many others are scored with it.

    Args:
        head: The head, in evaluation mode.
        embeddings: Part of an encoder -> its embeddings (N, D), row i belongs to frame i.

    Returns:
        float32 (N, 2) on the CPU: score1 = P(others), score2 = P(virus); each row sums to 1.

    Raises:
        ValueError: The head is in training mode, or the embeddings do not fit it or each other.
    """
    if head.training:
        raise ValueError("the head is in training mode; call head.eval()")
    features, device = head.hidden_layer.in_features, head.hidden_layer.weight.device
    parts = in_order(embeddings)
    shapes = [tuple(part.shape) for part in parts]
    if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts) or sum(s[-1] for s in shapes) != features:
        raise ValueError(f"embeddings {' and '.join(map(str, shapes))} do not fit {features} features")
    scores = torch.empty(len(parts[0]), 2)
    for start in range(0, len(scores), _BLOCK_ROWS):
        joined = torch.cat([part[start : start + _BLOCK_ROWS] for part in parts], dim=1).float()
        block = torch.zeros(_BLOCK_ROWS, features, device=device)
        block[: len(joined)] = joined
        scores[start : start + _BLOCK_ROWS] = head(block)[: len(joined)].softmax(dim=1).cpu()
    return scores
