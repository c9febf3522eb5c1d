"""How this process keeps memory that was freed; what is kept in it is none of this module's business."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let large blocks be used again instead of returning them to the kernel after every use; Linux with glibc only.

    A layer's activations of some ten megabytes are made and dropped once a layer. By default glibc maps and unmaps each
    block above 32 MB anew, and the kernel's clearing of its pages costs a matrix product up to a tenth of its speed
    (`python bench/encoders.py --kept none` shows it). The process then holds what it once needed until it ends, and
    up to eight times its largest block.

    Returns:
        Whether the C library took the settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER)])
