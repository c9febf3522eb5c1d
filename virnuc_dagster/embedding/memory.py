"""How this process keeps memory that was freed; what is kept in it is none of this module's business."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_NEVER, _LARGE, _MANY = -1, 2**20, 2**16


def keep_freed_memory() -> bool:
    """Let large blocks be used again instead of returning them to the kernel after every use; Linux with glibc only.

    A layer's activations of some ten megabytes are made and dropped once a layer. By default glibc maps and unmaps each
    block above 32 MB anew, and the kernel's clearing of its pages costs a matrix product up to a tenth of its speed
    (`python bench/encoders.py --kept none` shows it). The process then holds what it once needed, and some eight times
    its largest block, until `trim_freed_memory`.

    Returns:
        Whether the C library took the settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER)])


def trim_freed_memory() -> None:
    """Give freed blocks back once, at the end of a shard; does nothing where there is no glibc.

    Batches of ever other shapes leave blocks that none of the next fits into: without this, a worker would hold more
    with every shard. The pages of what is used again are cleared again, once a shard rather than once a layer.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def return_freed_memory() -> None:
    """Undo `keep_freed_memory` once memory has run out; does nothing where there is no glibc.

    Freed blocks that the C library keeps are of no use to oneDNN, which maps memory for the code of each new shape:
    smaller batches would fail as well. From now on large blocks are mapped, and unmapped when they are freed.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, _MANY)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)
    trim_freed_memory()
