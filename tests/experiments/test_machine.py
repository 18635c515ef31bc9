"""How the commands set up the process, seen from a fresh one."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPO

COUNT = "from experiments.machine import *; keep_memory(); use_cores(); import jax; "
COUNT += "print(jax.local_device_count())"


def devices(**env):
    inherited = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env=inherited | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO)} | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_every_core_is_a_device():
    assert devices() == min(8, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    "env",
    [
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"},
        {"JAX_NUM_CPU_DEVICES": "3"},
    ],
    ids=lambda env: next(iter(env)),
)
def test_what_the_user_said_stays(env):
    assert devices(**env) == 3
