"""The contract of methods carries what comes: six methods of other kinds, from tests/contract."""

import json

import jax
import numpy as np
import pytest

from clipjax.train.restore import shapes
from tests import forked
from tests.contract.runs import ACCUMULATES, RESUMED, SPIKES, studies

pytestmark = pytest.mark.slow

TRAINED = [name for name in SPIKES if name != "ridge"]


@pytest.fixture(scope="module")
def found(tmp_path_factory, wee_clip, photos):
    """What all runs trained: in one go on one device; and on two, each stopped and resumed."""
    folders, started = {}, []
    for kind, devices, how in (("whole", 1, ""), ("resumed", 2, "interrupted")):
        folders[kind] = tmp_path_factory.mktemp(kind)
        env = {"JAX_NUM_CPU_DEVICES": str(devices), "PJRT_NPROC": "8", "CI": "true"}
        words = ["-m", "tests.contract.runs", wee_clip, photos, folders[kind], *filter(None, [how])]
        started.append(forked.start(words, **env))
    for process in started:
        assert process.wait(timeout=500) == 0, process.said()
    return {
        kind: (folder, dict(np.load(folder / "params.npz"))) for kind, folder in folders.items()
    }


def params_of(found, kind, run):
    params = found[kind][1]
    return {k.partition(":")[2]: v for k, v in params.items() if k.startswith(f"{run}:")}


@pytest.mark.parametrize("name", SPIKES)
def test_a_run_stopped_and_resumed_on_two_devices_is_the_whole_one(found, name):
    whole, resumed = (params_of(found, kind, f"{name}-{RESUMED[name]}") for kind in found)
    assert whole.keys() == resumed.keys() and any(map(np.any, whole.values()))
    for key, value in whole.items():
        np.testing.assert_allclose(resumed[key], value, rtol=2e-3, atol=2e-4, err_msg=key)


@pytest.mark.parametrize("name", TRAINED)
def test_pixels_train_what_cached_features_do(found, name):
    cached, pixels = (params_of(found, "whole", f"{name}-{way}") for way in ("cached", "pixels"))
    assert cached.keys() == pixels.keys()
    for key, value in cached.items():
        np.testing.assert_allclose(pixels[key], value, rtol=2e-3, atol=2e-4, err_msg=key)


@pytest.mark.parametrize("name", ACCUMULATES)
def test_microbatches_train_what_batches_do(found, name):
    whole, parts = (params_of(found, "whole", f"{name}-{way}") for way in ("cached", "accumulated"))
    for key, value in whole.items():
        np.testing.assert_allclose(parts[key], value, rtol=2e-3, atol=2e-4, err_msg=key)


@pytest.mark.parametrize("name", TRAINED)
def test_losses_fall_or_move_and_frozen_towers_are_in_no_checkpoint(found, name):
    for entries, accumulate in studies(name):
        folder = found["whole"][0] / name / str(accumulate)
        log = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        for label in entries:
            losses = [np.mean(r["loss"]) for r in log if r["phase"] == label and "loss" in r]
            assert len(losses) >= 2 and np.isfinite(losses).all() and losses[0] != losses[-1]
            checkpoints = folder / "checkpoints" / label
            # One seed after the other where pixels are read, all as one program where not.
            assert (checkpoints / "seed1").is_dir() == (label in ("pixels", "image"))
            steps = checkpoints.rglob("state")
            saved = jax.tree_util.tree_leaves_with_path(shapes(next(steps).parent)["params"])
            names = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in saved}
            assert names and not any("clip/" in each or "teacher" in each for each in names)


def test_a_closed_form_gives_its_variants_as_rows(found):
    folder = found["whole"][0] / "ridge" / "1"
    rows = json.loads((folder / "rows.json").read_text())
    rows = [r for r in rows if r["method"] == "cached" and r["split"] == "test"]
    variants = ["strength_1", "strength_0.1", "strength_10"]
    assert [r["variant"] for r in rows if r["domain"] == "sketch"] == variants
    assert all((r["metric"], r["classes"]) == ("accuracy", "all") for r in rows)
    assert all(len(r["macro_accuracies"]) == len(r["accuracies"]) == 2 for r in rows)
    assert not list(folder.glob("**/opt_state*"))
