"""Gradual unfreezing: the phases that one option makes, and orders that cannot be."""

import jax
import numpy as np
import pytest

from clipjax.errors import ConfigError
from clipjax.model.hf.load import load_clip
from clipjax.study import parse, run
from clipjax.study.plan import prepare
from tests.conftest import parsed
from tests.study.test_study import config_of

BASE = {"loss": "finetune", "heads": {}}
ORDER = ("clip/vision/projection", "clip/vision/block_1..0", "clip/vision/embedding")
WEE = ("clip/vision/projection", "clip/vision/block_0", "clip/vision/embedding")


def of(**entry):
    entry = BASE | {"epochs": 12} | entry
    (method,) = parse({"stages": ("m",), "methods": {"m": entry}}).trained
    return method.phases


def test_layers_thaw_from_the_top_one_phase_each():
    phases = of(unfreeze={"order": ORDER, "epochs": 2}, freeze=("clip/text/.*",))
    labels = ["heads", "vision_projection", "vision_block_1", "vision_block_0", "vision_embedding"]
    assert [phase.label for phase in phases] == labels
    assert [phase.epochs for phase in phases] == [2, 2, 2, 2, 4]
    groups = ("clip/text/.*", *ORDER[:1], "clip/vision/block_1", "clip/vision/block_0", ORDER[-1])
    frozen = [phase.freeze for phase in phases]
    assert frozen == [(groups[0], *groups[i:]) for i in range(1, len(groups) + 1)]
    together = of(unfreeze={"order": ("clip/vision/block_0..1",)})  # a range that rises
    assert [phase.freeze for phase in together] == [("clip/vision/block_0..1",), ()]


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"epochs": 4}, "epochs=4 are too few for 5 phases, .*; give 5 or more"),
        ({"phases": {"a": {}}, "phase_order": ("a",)}, "has phases, and unfreeze, .*one of them"),
        ({"unfreeze": {}}, r"unfreeze.order is \(\); name groups once, as in"),
        ({"unfreeze": {"order": ORDER[:1] * 2}}, "name groups once"),
        ({"unfreeze": {"order": "clip"}}, "unfreeze.order is 'clip'; give a tuple of regular"),
        ({"unfreeze": {"ordr": ORDER}}, "no field methods.m.unfreeze.ordr; .*mean .*order"),
        ({"unfreeze": {"order": ORDER, "epochs": 0}}, "unfreeze.epochs is 0; give a whole number"),
    ],
)
def test_what_no_phases_can_be_made_of_is_refused(entry, words):
    with pytest.raises(ConfigError, match=words):
        of(**{"unfreeze": {"order": ORDER}} | entry)


@pytest.mark.parametrize(
    "order, freeze, words",
    [
        (WEE[:1], (), "clip/vision/block_0, clip/vision/embedding would train from the first"),
        (WEE, (WEE[1],), "phase 'vision_block_0' thaws nothing that this method uses"),
        ((*WEE, "clip/vision/block_7"), (), "block_7.* matches no layer group"),
        ((*WEE, "clip/text/.*"), (), "phase 'text' thaws nothing that this method uses"),
    ],
)
def test_an_order_is_held_against_the_model(photos, wee_clip, order, freeze, words):
    entry = BASE | {"unfreeze": {"order": order}, "freeze": freeze, "epochs": 9}
    with pytest.raises(ConfigError, match=words):
        prepare(parsed(config_of(photos, wee_clip, m=entry)))


@pytest.mark.slow
def test_what_has_not_thawed_yet_is_as_it_came(photos, wee_clip, tmp_path):
    optim = {"schedule": "slanted", "schedule_over": "run", "lr": 0.01, "layer_decay": 0.5}
    entry = BASE | {"unfreeze": {"order": WEE[:2]}, "freeze": WEE[2:], "optim": optim}
    config = config_of(photos, wee_clip, m=entry | {"epochs": 3})
    config.seeds = (0,)
    found = run(parsed(config), tmp_path, pages=False)
    before = load_clip(wee_clip)[1]["vision"]
    after = jax.tree.map(lambda x: x[0], found.params["m"]["clip"])
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), after["vision"]["block_0"], before["block_0"]
    )
    assert all(jax.tree.leaves(moved)) and "patch_embedding" not in after["vision"]
    rates = {r["phase"]: r for r in found.curves if "loss" in r}
    assert list(rates) == ["m/heads", "m/vision_projection", "m/vision_block_0"]
    lr = [record["lr"] for record in rates.values()]
    assert lr[0] > lr[1] > lr[2] > 0.01 / 32  # one triangle over the run
    assert rates["m/vision_block_0"]["lr:clip/vision/block_0"] == pytest.approx(lr[2] / 2, rel=1e-4)
    assert "lr:clip/vision/block_0" not in rates["m/vision_projection"]
