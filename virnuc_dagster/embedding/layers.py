"""What both encoders are built from: linears in a chosen precision, attention, and reading published weights.

Shapes in comments: B frames of one exact length, T tokens, D model width, H heads, K = D / H.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from virnuc_dagster.errors import BundleError

#: What TensorFlow calls the two parts of a norm; some versions of transformers save a norm's weight and bias so.
_TENSORFLOW = {"gamma": "weight", "beta": "bias"}


def config_from(cls: type[Any], config: Mapping[str, Any], *, expected: Mapping[str, Any]) -> Any:
    """Build a configuration dataclass from the entries of a mapping that it knows.

    Args:
        cls: A dataclass with `hidden_size` and `num_attention_heads`.
        config: Hugging Face style configuration.
        expected: Entries that must have this value where they are given.

    Raises:
        ValueError: An entry is missing, has an unexpected value, or the heads do not divide the width.
    """
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in config]
    if missing:
        raise ValueError(f"the configuration lacks {', '.join(missing)}")
    for name, value in expected.items():
        if config.get(name) not in (None, value):  # an entry that was never set is saved as null
            raise ValueError(f"{name} is {config[name]!r}; this encoder knows only {value!r}")
    result = cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})
    if result.hidden_size % result.num_attention_heads:
        raise ValueError(f"{result.num_attention_heads} heads do not divide a width of {result.hidden_size}")
    return result


class Linear(nn.Linear):
    """A linear layer that computes in the number format of its own weight, whatever it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to (..., in) and return (..., out) in the weight's number format."""
        return super().forward(x.to(self.weight.dtype))


class Embedding(nn.Embedding):
    """A table of token vectors that costs nothing on the meta device (torch's own imports for a second to fill it)."""

    def reset_parameters(self) -> None:
        """Initialise a table that is to be trained; one that waits for its weights is left alone."""
        if not self.weight.is_meta:
            super().reset_parameters()


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Softmax attention without mask, for frames of one exact length.

    Args:
        q: Queries (B, H, T, K).
        k: Keys (B, H, T, K).
        v: Values (B, H, T, K).
        bias: Added to the scaled scores of every frame, (H, T, T).

    Returns:
        (B, T, H * K), heads joined in order.
    """
    if bias is not None:
        bias = bias.to(q.dtype)[None]  # four axes: with three, torch leaves its fused kernel (2.7 times slower on CPU)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return mixed.transpose(1, 2).flatten(2)


def norm_of(norm: nn.LayerNorm, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """A LayerNorm for inference: its own float32 copy on `device`, the module left alone."""
    assert norm.weight is not None
    weight, bias = (part.detach().to(device, torch.float32, copy=True) for part in (norm.weight, norm.bias))
    return lambda x: F.layer_norm(x, tuple(norm.normalized_shape), weight, bias, norm.eps)


def to_device(tokens: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy tokens to where they are needed; to a GPU through pinned memory, without waiting for it."""
    if device.type == "cuda":
        return tokens.pin_memory().to(device, non_blocking=True)
    return tokens.to(device)


def load_published(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    published_name: Callable[[str], str],
    *,
    prefixes: Iterable[str],
    unused: tuple[str, ...],
) -> None:
    """Give a model its weights from a state dict with published names, in float32.

    Every parameter must be there with the right shape, and every entry must be used or be known to be unused.

    Args:
        model: The model; its parameters are replaced, so it may be on the meta device.
        state: Published name -> tensor.
        published_name: Own parameter name -> published name.
        prefixes: A leading part that all names may carry (the model's, with a dot) and that is dropped.
        unused: Published names, or beginnings of names, that the encoder has no use for (an output head).

    Raises:
        BundleError: Missing, unknown or wrongly shaped entries; all are named.
    """
    found = plain_names(state, prefixes)
    wanted = {published_name(name): (name, tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unknown {name}" for name in found if name not in wanted and not name.startswith(unused)]
    problems += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(shape)}"
        for name, (_, shape) in wanted.items()
        if name in found and found[name].shape != shape
    ]
    if problems:
        raise BundleError(
            "the weights do not fit the model: " + "; ".join(problems),
            hint="check that the weights and the configuration belong together",
            problems=problems,
        )
    weights = {own: found[name].to(torch.float32) for name, (own, _) in wanted.items()}
    model.load_state_dict(weights, strict=True, assign=True)


def plain_names(state: Mapping[str, torch.Tensor], prefixes: Iterable[str]) -> dict[str, torch.Tensor]:
    """Drop what only some files write into their names: the model's prefix, and `gamma` and `beta` for parts of norms.

    Args:
        state: Published name -> tensor.
        prefixes: A leading part that all names may carry (the model's, with a dot).

    Raises:
        BundleError: Two entries are the same parameter; which of them counts cannot be known.
    """
    sources: dict[str, list[str]] = {}
    for name in state:
        sources.setdefault(_plain_name(name, prefixes), []).append(name)
    if problems := [f"{' and '.join(names)} are one parameter" for names in sources.values() if len(names) > 1]:
        raise BundleError(
            "the weights hold parameters twice: " + "; ".join(problems),
            hint="give the folder as published by its owner",
            problems=problems,
        )
    return {plain: state[names[0]] for plain, names in sources.items()}


def _plain_name(name: str, prefixes: Iterable[str]) -> str:
    """One name for `plain_names`; only the first of `prefixes` that fits is dropped."""
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    start, _, last = name.removeprefix(prefix).rpartition(".")
    return f"{start}.{_TENSORFLOW.get(last, last)}" if start else last
