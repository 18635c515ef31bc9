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


CACHE = "from experiments.machine import *; keep_compiled(); import jax, jax.numpy as jnp; "
CACHE += "print(jax.config.jax_compilation_cache_dir, jax.jit(lambda x: x @ x)(jnp.eye(3)).sum())"


def cache_of(folder, **env):
    said = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    inherited = {k: v for k, v in os.environ.items() if k not in said}
    done = subprocess.run(
        [sys.executable, "-c", CACHE],
        env=inherited | {"PYTHONPATH": str(REPO), "CLIPJAX_CACHE": str(folder)} | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()[0]


def test_programs_are_kept_beside_the_features(tmp_path):
    folder = cache_of(tmp_path)
    assert folder.startswith(str(tmp_path / "compiled"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "compiled").rglob("*-cache")}
    assert before
    cache_of(tmp_path)
    after = {path.name for path in (tmp_path / "compiled").rglob("*-cache")}
    assert after == before.keys()  # nothing was compiled again


def test_programs_are_not_kept_where_the_user_says_otherwise(tmp_path):
    assert cache_of(tmp_path, CLIPJAX_COMPILED="0") == "None"
    assert cache_of(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == str(
        tmp_path / "own"
    )
    assert not (tmp_path / "compiled").exists()
