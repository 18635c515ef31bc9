"""Programs that runs share: found again for the same methods, never for others."""

import jax
import numpy as np
import pytest

from clipjax.adapt.method import Classes
from clipjax.data.images.preprocess import Preprocess
from clipjax.data.loading.image_cache import Crops
from clipjax.model.clip import CLIP
from clipjax.study import Programs, run
from clipjax.study.recipe import Ingredients
from configs import common
from tests.conftest import methods_of, parsed, small_config
from tests.study.test_study import config_of

HEAD = {"loss": "finetune", "heads": {}, "align": "standardise"}
FULL = {"loss": "finetune", "heads": {"text": True}, "freeze": (), "augment": {}}
KEYS = ("iterations", "parameters")
METHODS = {"head": HEAD, "logistic": {"loss": "logistic"}, "full": FULL}


def ingredients(target="stencil", **fields):
    """Of a method `HEAD` with some fields changed, "sketch" to another target."""
    config = common.study()
    config.data.target, config.stages, config.methods = target, ("m",), {"m": HEAD | fields}
    classes = Classes(("a", "b", "c"), np.zeros((3, 1, 4), np.int32), np.eye(3, dtype="f"), 9.0)
    methods = tuple(methods_of(config).values())
    return Ingredients(methods, (0,), classes, CLIP(small_config()), Preprocess(32), 5, 1, 1)


def test_a_recipe_is_made_once_for_the_same_methods_on_any_images():
    programs, one = Programs(), ingredients()
    assert programs.recipe(one) is programs.recipe(ingredients(target="sketch"))
    classes = one.classes
    others = [
        ingredients(label_smoothing=0.2),
        ingredients(optim={"lr": 0.1}),
        ingredients(epochs=3),
        ingredients(optim={"schedule": "linear"}),
        ingredients(optim={"b1": 0.8}),
        ingredients(heads={"class_bias": False}),
        ingredients(align="coral"),
        one._replace(per_epoch=6),
        one._replace(accumulate=2),
        one._replace(preprocess=Preprocess(64)),
        one._replace(module=one.module.clone(dtype="bfloat16")),
        one._replace(classes=classes._replace(weights=2 * classes.weights)),
        one._replace(classes=classes._replace(scale=8.0)),
        one._replace(classes=classes._replace(names=("a", "b", "d"))),
    ]
    found = [programs.recipe(each) for each in (one, *others)]
    assert len({id(recipe) for recipe in found}) == len(found)


def test_rates_fall_with_the_layers_of_the_towers_that_train():
    freeze = ("clip/vision/embedding", "clip/text/.*", "clip/logit_scale")
    optim = {"lr": 0.1, "schedule": "constant", "layer_decay": 0.5}
    optim["lr_mults"] = (("classifier", 3.0),)
    fields = {"align": "none", "optim": optim, "freeze": freeze}
    rates = Programs().recipe(ingredients(**fields)).rates(0, 0, 1)
    blocks = {f"lr:clip/vision/block_{i}": rate for i, rate in enumerate((0.025, 0.05))}
    assert rates == {"lr": 0.1, "lr:classifier": 0.3} | blocks


def test_a_schedule_runs_over_the_phase_or_the_run_by_the_step_or_the_epoch():
    """Of 5 steps an epoch."""
    phases = {"one": {"epochs": 1}, "two": {"epochs": 3}}

    def rates(**optim):
        optim = {"lr": 1.0, "schedule": "linear", **optim}
        fields = {"optim": optim, "phases": phases, "phase_order": ("one", "two")}
        recipe = Programs().recipe(ingredients(align="none", **fields))
        rates = [recipe.rates(i, 0, step)["lr"] for i, step in ((0, 0), (0, 3), (1, 5), (1, 13))]
        return pytest.approx(rates, abs=1e-5)

    assert rates() == [1, 2 / 5, 1, 7 / 15]
    assert rates(schedule_every="epoch") == [1, 1, 1, 10 / 15]
    assert rates(schedule_over="run") == [1, 17 / 20, 15 / 20, 7 / 20]
    assert rates(schedule_over="run", schedule_every="epoch") == [1, 1, 15 / 20, 10 / 20]


@pytest.mark.slow
def test_a_run_after_another_compiles_nothing_and_has_the_same_bits(
    photos, wee_clip, tmp_path, caplog, monkeypatch
):
    whole, encoded = Crops.encode, []
    count = lambda crops, *args, **options: encoded.append(crops) or whole(crops, *args, **options)
    monkeypatch.setattr(Crops, "encode", count)
    config, programs = config_of(photos, wee_clip, **METHODS), Programs()
    config.seeds, config.epochs, config.save_every = (0,), 2, 2
    first = parsed(config)
    config.data.source, config.data.target = "sketch", "real"
    second = parsed(config)
    run(first, tmp_path / "first", pages=False, programs=programs)
    assert len(encoded) == len(set(map(id, encoded)))  # a part is encoded by `full` once
    assert encoded
    with jax.log_compiles():
        shared = run(second, tmp_path / "second", pages=False, programs=programs)
        assert "ompiling" not in caplog.text
        alone = run(second, tmp_path / "alone", pages=False)
    assert "ompiling" in caplog.text
    assert shared.rows == alone.rows
    cost, width = shared.results["cost"], small_config().projection_dim
    assert all(one["seconds"] > 0 < one["cpu_seconds"] for one in cost.values())
    assert all(one["peak_bytes"] > 1e6 for one in cost.values())
    iterations, parameters = ({k: v[key] for k, v in cost.items()} for key in KEYS)
    assert iterations == {"head": 6, "logistic": 0, "full": 6}
    towers = sum(x.size for x in jax.tree.leaves(shared.params["full"]))
    assert parameters == {"head": 3 * width + 3, "logistic": 3 * width + 3, "full": towers}
    plain = lambda records: [{k: v for k, v in r.items() if "s_per" not in k} for r in records]
    assert plain(shared.curves) == plain(alone.curves)
    jax.tree.map(np.testing.assert_array_equal, shared.params, alone.params)
