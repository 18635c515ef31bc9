"""What malloc does with freed memory after `keep_memory`, seen from a fresh process."""

import os
import platform
import subprocess
import sys

import pytest

from clipjax.runtime.malloc import _counts_untouched
from tests.conftest import REPO

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")

START = """
import ctypes, resource, sys, threading
from clipjax.runtime.malloc import keep_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.aligned_alloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.argtypes = libc.free.argtypes = (ctypes.c_size_t,)
libc.aligned_alloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
"""


def run(script, *arguments, **env):
    env = os.environ | {"PYTHONPATH": str(REPO)} | env
    command = [sys.executable, "-c", START + script, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


# Threads that allocate at the same time, and what malloc then says of its heaps.
HEAPS = """
keep_memory(one_arena={one_arena})
together = threading.Barrier(3)
def allocate():
    together.wait()
    libc.malloc(1 << 16)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
libc.fclose.argtypes = (ctypes.c_void_p,)
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file), libc.fclose(file)
"""


@pytest.mark.parametrize(("one_arena", "heaps"), [(True, {1}), (False, {2, 3, 4})])
def test_threads_share_a_heap_where_they_are_told_to(tmp_path, one_arena, heaps):
    report = tmp_path / "heaps.xml"
    run(HEAPS.format(one_arena=one_arena), report)
    assert report.read_text().count("<heap nr=") in heaps


def test_blocks_of_more_than_two_gigabytes_are_kept_too():
    # Nothing is written there, so the test needs no such memory.
    script = "keep_memory(one_arena=False); block = libc.malloc(3 << 30); assert block\n"
    script += "before = libc.sbrk(0); libc.free(block); print(before - libc.sbrk(0))"
    assert int(run(script)) == 0


# Steps of the embedded CLIP's image tower on two devices.
STEPS = """
{before}
keep_memory()
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from benchmarks.encode import SIZES, jax_call
images = np.random.default_rng(0).normal(size=(128, 64, 64, 3)).astype(np.float32)
step = jax_call(SIZES["tiny"], images, "float32", backward=True)
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
def test_steps_reuse_their_memory():
    # 131,000 pages are one device's temporaries; without holes eight steps ask for them twice where
    # glibc is older than 2.39.
    assert int(run(STEPS.format(before=""), XLA_FLAGS="")) < 60_000


# What a process with 2 GB of address space left has of it.
LIMITED = """
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30),) * 2)
keep_memory()
block = libc.malloc(16 << 20)
assert block
print(libc.memset(block, 1, 16 << 20) is not None)
"""


def test_a_limit_on_the_address_space_is_no_error():
    assert run(LIMITED).strip() == "True"


@pytest.mark.parametrize(("setting", "counts"), [("0", False), ("1", False), ("2", True)])
def test_no_holes_where_untouched_memory_counts(tmp_path, setting, counts):
    path = tmp_path / "overcommit_memory"
    path.write_text(setting + "\n")
    assert _counts_untouched(str(path)) is counts
    assert not _counts_untouched(str(tmp_path / "none"))
