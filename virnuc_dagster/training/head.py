"""The head: trained on embeddings, or put together from heads of single encoders; calibrated on `dev` either way.

Calibration is an affine change of the log odds (Platt scaling); it is folded into the output layer, so that a bundle's
head stays a head of the original's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from virnuc_dagster.classify.head import Head
from virnuc_dagster.training.finish import Part

BATCH = 256
"""Frames of a step; fewer of small data, so that an epoch is many steps."""
PATIENCE = 8
"""Epochs without a better one after which the training of a head stops."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def train_head(
    fit: Part, dev: Part, *, hidden: int, seed: int, epochs: int, on_epoch: Callable[[dict[str, float]], None]
) -> Head:
    """Train a head on joined embeddings; the weights that were best on `dev` are returned.

    Args:
        fit: Frames to learn from, with their embeddings.
        dev: Frames to choose by.
        hidden: Width of the hidden layer.
        seed: Decides weights and order.
        epochs: Most epochs; one draws as many frames as there are.
        on_epoch: Told of each epoch: `step`, `train_loss`, `dev_loss`, `dev_accuracy`.

    Returns:
        The head, in evaluation mode, not yet calibrated.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    features = fit.joined
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    features = (features - mean) / deviation
    of_dev = (dev.joined - mean) / deviation
    head, truth = Head(features.shape[1], hidden), torch.from_numpy(fit.frames.virus).long()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    weight, best, curve = torch.from_numpy(fit.frames.weight), {}, []
    for epoch in range(1, epochs + 1):
        drawn = torch.multinomial(weight, len(truth), replacement=True, generator=random)
        losses = []
        for rows in drawn.split(min(BATCH, max(8, len(truth) // 16))):
            if len(rows) < 2:  # BatchNorm needs two
                continue
            loss = F.cross_entropy(head.train()(features[rows]), truth[rows], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        signed = log_odds(head.eval(), of_dev) * np.where(dev.frames.virus, 1.0, -1.0)
        entry = {
            "step": epoch,
            "train_loss": float(np.mean(losses)),
            "dev_loss": float(np.average(np.logaddexp(0.0, -signed), weights=dev.frames.weight)),
            "dev_accuracy": float(np.average(signed > 0, weights=dev.frames.weight)),
        }
        curve.append(entry["dev_loss"])
        if entry["dev_loss"] <= min(curve):
            best = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        on_epoch(entry)
        if epoch - 1 - int(np.argmin(curve)) >= PATIENCE:
            break
    head.load_state_dict(best)
    with torch.no_grad():  # take standardised embeddings by taking raw ones
        head.hidden_layer.weight.div_(deviation)
        head.hidden_layer.bias.sub_(head.hidden_layer.weight @ mean)
    return head.eval()


@torch.inference_mode()
def log_odds(head: Head, features: torch.Tensor) -> Floats:
    """Log odds of virus of joined embeddings (N, F), (N,)."""
    logits = head(features).double()
    difference: Floats = (logits[:, 1] - logits[:, 0]).numpy()
    return difference


def join_heads(heads: Sequence[Head], factors: Sequence[float], shift: float) -> Head:
    """Join heads into one whose log odds are a weighted sum of theirs.

    Each hidden unit looks at the embedding of its own encoder only.

    Args:
        heads: Heads of single encoders, in the order in which embeddings are joined.
        factors: Factor of each head's log odds.
        shift: Added to the sum.
    """
    joined = Head(
        sum(head.hidden_layer.in_features for head in heads), sum(head.hidden_layer.out_features for head in heads)
    ).eval()
    with torch.no_grad():
        joined.hidden_layer.weight.copy_(torch.block_diag(*(head.hidden_layer.weight for head in heads)))
        joined.hidden_layer.bias.copy_(torch.cat([head.hidden_layer.bias for head in heads]))
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(joined.bn1, name).copy_(torch.cat([getattr(head.bn1, name) for head in heads]))
        pairs = list(zip(heads, factors, strict=True))
        joined.output_layer.weight.copy_(torch.cat([head.output_layer.weight * f for head, f in pairs], dim=1))
        joined.output_layer.bias.copy_(sum((head.output_layer.bias * f for head, f in pairs), torch.zeros(2)))
        joined.output_layer.bias.add_(torch.tensor([-shift / 2, shift / 2]))
    return joined


def stack(log_odds: Floats, virus: Bools, weight: Floats) -> tuple[list[float], float]:
    """Fit factors and shift that make calibrated log odds of those of one or more heads; logistic regression.

    Args:
        log_odds: (N, H), a column a head.
        virus: Class of each frame, (N,).
        weight: Weight of each frame, (N,).

    Returns:
        A factor a head, and the shift.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=100.0).fit(log_odds, virus, sample_weight=weight / weight.mean())
    return model.coef_[0].tolist(), float(model.intercept_[0])
