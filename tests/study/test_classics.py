"""The classics through a study: all as stages of one run, and from pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import load_adapted
from clipjax.adapt.method import Backbone, Classes
from clipjax.configs import classics
from clipjax.study import export, run
from tests.conftest import methods_of, parsed
from tests.study.test_study import config_of, row_of

SMALL = {"adapter": (8,), "discriminator": (8,)}
TERMS = {
    "dann_aligned": "domain_loss",
    "cdan": "domain_loss",
    "deep_coral": "coral_loss",
    "dan": "mmd_loss",
    "jan": "mmd_loss",
    "mcc": "confusion_loss",
    "afn": "norm_loss",
    "bnm": "nuclear_loss",
    "mcd": "discrepancy",
}


def test_each_method_of_the_config_has_its_entry_and_what_its_paper_says():
    built = methods_of(classics.get_config("source=flat,target=stencil"), 28)
    assert set(TERMS) < set(built) == set(classics.STAGES)
    for name, method in built.items():
        assert method.trains and method.kind.reads == ("source", "target")
        assert method.kind.per_example == (name in ("head_aligned", "head_coral", "dann_aligned",
                                                    "afn", "mcd"))  # fmt: skip
        assert method.config.align == ("coral" if name == "head_coral" else "standardise")
    (phase,) = built["dann_aligned"].phases
    assert phase.optim.lr == 3e-4 and phase.optim.lr_mults == (("discriminator", 10.0),)


@pytest.mark.parametrize("name", ["head_coral", "mcc"])
def test_linear_heads_of_the_config_start_as_zero_shot_behind_their_map(name):
    rng = np.random.default_rng(0)
    x = {part: jnp.asarray(rng.normal(0.3, 0.1, (40, 5)), jnp.float32) for part in "st"}
    data = {"source": {"inputs": x["s"], "label": jnp.arange(40) % 3}, "target": {"inputs": x["t"]}}
    classes = Classes(("a", "b", "c"), None, rng.normal(size=(3, 5)), 9.0)
    method = methods_of(classics.get_config(), 3)[name]
    encode = {"image": lambda params, x, rng=None: x}
    backbone = Backbone(encode, None, None, {}, frozenset({"image"}))
    made = method.on(backbone, classes, method.phases[0])
    params = made.start(data, classes, made.init(jax.random.key(0)))
    zero_shot = 9.0 * np.asarray(x["t"]) @ classes.weights.T
    np.testing.assert_allclose(made.predict(params, x["t"], classes), zero_shot, 1e-4, 1e-4)


@pytest.fixture(scope="module")
def finished(photos, wee_clip, tmp_path_factory):
    """A finished run of every entry of configs/uda.py, on one seed."""
    workdir = tmp_path_factory.mktemp("classics") / "run"
    entries = {name: entry for name, entry in classics.methods().items() if name in TERMS}
    for entry in entries.values():
        if "adapter" in entry["heads"]:
            wanted = {"adapter": (8,)} | {k: v for k, v in entry["heads"].items() if k == "members"}
            entry["heads"] = SMALL if "discriminator" in entry["heads"] else wanted
    wide = {"loss": "cdan", "heads": SMALL, "randomized": 7, "entropy": False}
    smooth = entries["dann_aligned"] | {"penalty": 0.1, "spectral": True}
    config = config_of(photos, wee_clip, **entries, wide=wide, smooth=smooth)
    config.seeds, config.epochs, config.save_every = (3,), 2, 2
    return run(parsed(config), workdir, pages=False), workdir


def test_all_methods_train_as_stages_of_one_run(finished):
    found, _ = finished
    for name, term in (TERMS | {"wide": "domain_loss", "smooth": "gradient_penalty"}).items():
        assert 0 <= row_of(found.results, name)["accuracies"][0] <= 1
        records = [r for r in found.curves if r["phase"] == name and term in r]
        assert len(records) == 2 and all(np.isfinite(r[term]).all() for r in records)
        assert records[0]["loss"] != records[1]["loss"]


def test_the_domain_head_of_cdan_takes_products_of_features_and_classes(finished):
    params = finished[0].params
    kernel = lambda name: params[name]["discriminator"]["layer_0"]
    assert kernel("cdan")["kernel"].shape == (1, 8 * 3, 8)
    assert kernel("wide")["kernel"].shape == (1, 7, 8)
    maps = params["wide"]["random_map"]
    assert [maps[key].shape for key in ("features", "shares")] == [(1, 8, 7), (1, 3, 7)]


@pytest.mark.parametrize("name", ["cdan", "wide"])
def test_it_is_exported_without_its_domain_head(finished, tmp_path, name):
    export.export(finished[1], tmp_path / "out", name, 3)
    assert load_adapted(tmp_path / "out").classes == ("blue", "green", "red")


@pytest.mark.slow
def test_from_pixels_they_train_what_they_do_from_cached_features(photos, wee_clip):
    """Without augmentation, the whole image as it is; in both forms of the batch."""
    pixels = {"augment": {"smallest": 1.0, "flip": False}, "joined": True}
    losses = {"cdan": {"loss": "cdan", "heads": SMALL}}
    losses["mmd"] = {"loss": "mmd", "heads": {"adapter": (8,)}}
    entries = {f"{name}_cached": entry for name, entry in losses.items()}
    entries |= {f"{name}_pixels": entry | pixels for name, entry in losses.items()}
    config = config_of(photos, wee_clip, **entries)
    # By its own size, a gradient of rounding errors would be a whole step of AdamW.
    config.seeds, config.epochs, config.optim.name = (0,), 1, "sgd"
    found = run(parsed(config)).params
    for name in losses:
        one, two = (found[f"{name}_{way}"] for way in ("cached", "pixels"))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-3, 2e-4), one, two)
