"""Linears as they are at inference: weights laid out once for the processor, computing in one number format.

On CPUs that have them, torch's own oneDNN operators take a weight that was re-ordered at load; they are private to
torch, so they are looked for, and their numbers checked against `F.linear`, before the first use. Everywhere else the
same class is a plain `F.linear`. Training uses `layers.Linear`; nothing here has a gradient.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

# Largest error of the self-check, relative to the largest value: far above rounding, far below a wrong layout.
_SELF_CHECK: dict[torch.dtype, float] = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


class PackedLinear:
    """y = x W^T + b, optionally followed by GELU, in one number format.

    A CPU without matrix units for a half precision rounds the weights to it and multiplies in float32: as precise as
    asked for, and many times faster than emulated half products.

    Args:
        weight: (out, in), any number format.
        bias: (out,) or None.
        dtype: Precision of the weights.
        device: Where to compute.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        compute = dtype if device.type != "cpu" or _has_fast_products(dtype) else torch.float32
        with torch.no_grad():
            weight = weight.detach().to(device, dtype).to(compute)
            self.bias = None if bias is None else bias.detach().to(device, dtype, copy=True).to(compute)
        self.dtype = compute
        self.is_packed = device.type == "cpu" and packing_works(compute)
        self._weight = _reorder(weight) if self.is_packed else weight.clone(memory_format=torch.contiguous_format)

    def __call__(self, x: torch.Tensor, *, gelu: bool = False) -> torch.Tensor:
        """Apply to (..., in); returns (..., out) in `self.dtype`, through the exact (erf) GELU if asked."""
        x = x.to(self.dtype)
        if self.is_packed:
            return _packed_linear(x, self._weight, self.bias, gelu=gelu)
        y = F.linear(x, self._weight, self.bias)
        return F.gelu(y) if gelu else y


@functools.cache
def packing_works(dtype: torch.dtype) -> bool:
    """Whether torch has the packed operators, for this number format and processor, and they give the right numbers."""
    if not _has_fast_products(dtype):
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((7, 48), (80, 48), (80,)))
    x, weight, bias = (tensor.to(dtype) for tensor in (x, weight, bias))
    expected = F.linear(x.double(), weight.double(), bias.double())
    try:
        with torch.no_grad():
            packed = _reorder(weight)
            plain = _packed_linear(x, packed, bias, gelu=False)
            fused = _packed_linear(x, packed, bias, gelu=True)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    errors = ((plain.double() - expected).abs().max(), (fused.double() - F.gelu(expected)).abs().max())
    return bool(max(errors) <= _SELF_CHECK[dtype] * expected.abs().max())


@functools.cache
def _has_fast_products(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of this number format at more than an emulation's speed."""
    if dtype == torch.float32:
        return bool(torch.backends.mkldnn.is_available())
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    try:
        return bool(getattr(torch.ops.mkldnn, name)())
    except (AttributeError, RuntimeError):
        return False


def _reorder(weight: torch.Tensor) -> torch.Tensor:
    """Lay a dense weight out for oneDNN."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed


def _packed_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, gelu: bool) -> torch.Tensor:
    """Multiply with a re-ordered weight, GELU fused."""
    attribute, algorithm = ("gelu", "none") if gelu else ("none", "")
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, attribute, [], algorithm)
    return y
