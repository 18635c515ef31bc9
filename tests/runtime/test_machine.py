"""How the commands set up the process, seen from a fresh one."""

import os
import socket
import subprocess
import sys
import types

import pytest

from clipjax.configs import dann, pretrain, sweep, tables
from clipjax.runtime import machine as record
from clipjax.study.plan import prepare
from clipjax.study.prepared import cached_phases
from clipjax.study.towers import trains_on_pixels
from tests.conftest import REPO, parsed

COUNT = "from clipjax.runtime.malloc import *; from clipjax.runtime.devices import *; "
COUNT += "keep_memory(); use_cores(); import jax; "
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


@pytest.mark.slow
def test_every_core_is_a_device():
    assert devices() == min(8, len(os.sched_getaffinity(0)))


@pytest.mark.slow
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


CACHE = "from clipjax.runtime.devices import *; keep_compiled(); import jax, jax.numpy as jnp; "
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


@pytest.mark.slow
def test_programs_are_kept_beside_the_features(tmp_path):
    folder = cache_of(tmp_path)
    assert folder.startswith(str(tmp_path / "compiled"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "compiled").rglob("*-cache")}
    assert before
    cache_of(tmp_path)
    after = {path.name for path in (tmp_path / "compiled").rglob("*-cache")}
    assert after == before.keys()  # nothing was compiled again


@pytest.mark.slow
def test_programs_are_not_kept_where_the_user_says_otherwise(tmp_path):
    assert cache_of(tmp_path, CLIPJAX_COMPILED="0") == "None"
    assert cache_of(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == str(
        tmp_path / "own"
    )
    assert not (tmp_path / "compiled").exists()


def changed(config, **fields):
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def test_heads_on_features_are_told_from_training_on_pixels():
    of_features = [dann.get_config(), sweep.get_config()]
    of_features += [tables.get_config(number) for number in "1345"]
    of_pixels = [pretrain.get_config(), tables.get_config("2"), tables.get_config("6")]
    assert not any(trains_on_pixels(parsed(config)) for config in of_features)
    assert all(trains_on_pixels(parsed(config)) for config in of_pixels)


@pytest.mark.parametrize(
    "fields",
    [
        {"freeze": ()},
        {"freeze": ("clip/vision/block_0..10", "clip/text/.*")},  # blocks after 10 may be there
        {"sweep": ({"methods.dann.freeze": (("clip/.*",), ())},)},
    ],
    ids=str,
)
def test_in_doubt_it_is_pixels(fields):
    assert trains_on_pixels(parsed(changed(dann.get_config(), **fields)))


def test_a_method_of_its_own_mask_or_augmentation_counts():
    for own in ({"freeze": ()}, {"augment": {"smallest": 0.5}}):
        config = dann.get_config()
        config.methods.dann = config.methods.dann.to_dict() | own
        assert trains_on_pixels(parsed(config))
        config.stages = ("finetune",)
        assert not trains_on_pixels(parsed(config))


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"freeze": ("clip/text/.*",)},
        {"augment": {"smallest": 0.5}},
        {"heads": {"text": True, "discriminator": (8,)}},  # the image tower is frozen: cached
    ],
)
def test_the_words_of_a_config_say_what_its_plan_says(own, photos, wee_clip):
    choices = f"smoke,source=real,target=sketch,root={photos},model={wee_clip}"
    config = dann.get_config(choices)
    config.methods.dann = config.methods.dann.to_dict() | own
    plan = prepare(parsed(config))
    cached = [all(cached_phases(plan, method)) for method in plan.methods.values()]
    assert trains_on_pixels(plan.study) == (not all(cached))


def test_results_can_say_where_they_were_made():
    found = record.machine()
    assert set(found) == {"devices", "processor", "cores", "system"}
    assert found["devices"].endswith(" x cpu") and found["cores"] > 0 and found["processor"]
    assert socket.gethostname() not in str(found)


@pytest.mark.parametrize(
    "argv, module, said",
    [
        (["/opt/bin/clipjax", "run", "a b"], None, "clipjax run 'a b'"),
        (["/x/clipjax/__main__.py", "run"], "clipjax.__main__", "clipjax run"),
        (["/x/main.py", "--a=c.py"], "experiments.main", "python -m experiments.main --a=c.py"),
        (["/x/pytest", "-q"], "pytest.__main__", ""),
        (["/x/script.py"], None, ""),
        ([""], None, ""),
    ],
)
def test_the_command_is_one_to_repeat(monkeypatch, argv, module, said):
    main = types.SimpleNamespace(__spec__=module and types.SimpleNamespace(name=module))
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert record.command() == said
