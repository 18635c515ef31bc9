"""Compiling without running: on the CPU's compiler here, on the TPU's where libtpu is installed."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from clipjax.aot.compiled import compile_step, needed_memory
from clipjax.aot.topology import Topology
from tests.conftest import REPO


def step(state, batch):
    """A matrix product and its gradient: 6 B I O FLOPs."""
    loss = lambda w: jnp.mean((batch["x"] @ w) ** 2)
    value, grad = jax.value_and_grad(loss)(state["w"])
    return {"w": state["w"] - 0.1 * grad}, {"loss": value}


def shapes(batch=256, width=128):
    f32 = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    return {"w": f32(width, width)}, {"x": f32(batch, width)}


def test_memory_and_flops_of_a_program_that_never_ran():
    here = Topology("v5e:1x1", "v5e", 1, (jax.devices()[0],))
    found = compile_step(step, *shapes(), here)
    assert found.fits and found.collectives == {} and found.sent == 0
    assert found.arguments == 4 * (128 * 128 + 256 * 128)
    assert found.peak >= found.arguments
    assert found.flops == pytest.approx(4 * 256 * 128 * 128, rel=0.1)  # x needs no gradient


def test_refusals_of_the_compiler_are_read():
    temporaries = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (152.00G) exceeds available HBM (15.75G)."
    )
    there = int(15.75 * 2**30)
    assert needed_memory(temporaries, arguments=2**30) == (153 * 2**30, there)
    total = "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm"
    assert needed_memory(total, arguments=2**30) == (int(20.5 * 2**30), there)
    assert needed_memory("INTERNAL: something else") is None


def test_a_program_that_does_not_fit_is_told_with_what_it_needs(monkeypatch):
    def refuse(self, **options):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (20.00G) exceeds available HBM (15.75G)."
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    here = Topology("v5e:1x1", "v5e", 1, (jax.devices()[0],))
    found = compile_step(step, *shapes(), here)
    assert not found.fits and found.capacity == int(15.75 * 2**30)
    assert found.peak == 20 * 2**30 + 4 * (128 * 128 + 256 * 128)  # beside them the arguments


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='needs pip install -e ".[aot]"'
)
def test_a_step_for_eight_tpu_chips_averages_gradients():
    """In a process of its own: libtpu stays loaded, and tests stay on the CPU."""
    code = (
        "from clipjax.aot.compiled import compile_step\n"
        "from clipjax.aot.topology import open_topology\n"
        "from tests.aot.test_compiled import shapes, step\n"
        "there = open_topology('v5e:2x4')\n"
        "one = compile_step(step, *shapes(4096, 1024), there, fast=True)\n"
        "cut = compile_step(step, *shapes(4096, 1024), there, fsdp=4, fast=True)\n"
        "assert one.fits and one.collectives['all-reduce'][1] >= 4 * 1024**2, one\n"
        "assert one.arguments == 4 * (1024**2 + 4096 * 1024 // 8), one\n"
        "assert cut.arguments == 4 * (1024**2 // 4 + 4096 * 1024 // 8), cut\n"
        "assert cut.collectives['all-gather'][0] >= 1, cut\n"
        "big = compile_step(step, *shapes(2**20, 2**16), there, fast=True)\n"
        "assert not big.fits and big.peak > big.capacity > 15 * 2**30, big\n"
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
