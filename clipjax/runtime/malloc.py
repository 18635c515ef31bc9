"""How malloc keeps memory between steps; must be set before JAX starts."""

import ctypes
import os
import pathlib
import platform

from clipjax.runtime.devices import cpu_devices

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h

_FENCE = 2048  # bytes that stay taken between two holes, so that they do not merge
_SMALLEST, _SMALL_HOLES = 16 << 10, 2048
_FROM = 1 << 20  # bytes of the first of the holes for large blocks


def keep_memory(one_arena: bool = True) -> None:
    """Make malloc keep what is freed for the next step; without glibc do nothing.

    XLA's CPU backend allocates the temporaries of every call anew; by default glibc maps large ones
    from the system each time, which then clears them page by page: a fifth of a training step.

    Args:
      one_arena: one heap for all threads, for training from pixels (`trains_on_pixels`): only a
        process's first heap has room for blocks above 64 MB. Heads on cached features allocate
        small blocks and would wait for each other's lock: a third more time.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(_M_TOP_PAD, 64 << 20)
    if one_arena:
        libc.mallopt(_M_ARENA_MAX, 1)
        if not _counts_untouched():
            _make_holes(libc, _hole_sizes())


def _counts_untouched(path: str = "/proc/sys/vm/overcommit_memory") -> bool:
    """Return whether Linux counts memory as used that nothing was written to."""
    setting = pathlib.Path(path)
    return setting.exists() and setting.read_text().strip() == "2"


def _hole_sizes() -> list[int]:
    """Return many small sizes, and each power of two for every device and a spare.

    The largest is at most half of a device's share of memory; all are at most twice as large as
    memory, none of which is used before something is written there.
    """
    devices = cpu_devices()
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (2 * devices)
    sizes, size = [_SMALLEST] * _SMALL_HOLES, _FROM
    while size <= most:
        sizes += [size] * (devices + 1)
        size *= 2
    return sizes


def _make_holes(libc: ctypes.CDLL, sizes: list[int]) -> None:
    """Free places in the heap that stay apart, so that large blocks find theirs again.

    glibc before 2.39 returns the rest of an aligned block, as XLA's are, to lists of small blocks
    that are never merged; the freed block is then too small for the same request, and the heap
    grows (sourceware.org, bugs 14581 and 30723; docs/performance.md has measurements). In a hole
    larger than the block the rest is large enough to be merged. malloc takes the smallest hole that
    will do, so small holes keep small blocks out of large ones.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    holes = []
    for size in sizes:
        if not (hole := libc.malloc(size)):  # a limit on the process's address space
            break
        holes.append(hole)
        libc.malloc(_FENCE)
    for hole in holes:
        libc.free(hole)
