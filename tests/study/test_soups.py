"""Model soups: means of the weights of runs, against means by hand, and what cannot be one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt.soup import greedy
from clipjax.errors import ConfigError
from clipjax.evaluate.results import notes
from clipjax.evaluate.rows import own_rows
from clipjax.study import run
from clipjax.study.encode import encode
from clipjax.study.plan import prepare
from tests.conftest import methods_of, parsed
from tests.study.test_study import config_of

HEAD = {"loss": "finetune", "heads": {}, "optim": {"schedule": "constant"}}


def test_a_greedy_soup_takes_in_what_does_not_harm():
    models = [{"w": np.float32([x])} for x in (4.0, 0.0, 2.0, 1.0)]
    asked = []

    def score(model):
        asked.append(float(model["w"][0]))
        return -abs(asked[-1] - 2.5)

    soup, taken = greedy(models, [-1.5, -2.5, -0.5, -1.5], score)
    # 2 is best; with 4 it is 3, as good; with 1 besides 7/3, better; with 0 it would be 7/4.
    assert taken == [2, 0, 3] and asked == pytest.approx([3.0, 7 / 3, 7 / 4])
    np.testing.assert_allclose(soup["w"], 7 / 3)


@pytest.fixture(scope="module")
def swept(photos, wee_clip, tmp_path_factory):
    """The config and results of a sweep of two methods, soups over all runs and over settings."""
    entries = {over: HEAD | {"soup": {"over": over}} for over in ("all", "settings")}
    config = config_of(photos, wee_clip, **entries)
    config.sweep = ({"optim.lr": (1e-3, 1e-1)},)
    config.epochs = 1
    return config, run(parsed(config), tmp_path_factory.mktemp("soups"))


@pytest.mark.slow
@pytest.mark.parametrize("over", ["all", "settings"])
def test_soups_of_a_sweep_are_rows_of_its_results(swept, over):
    config, results = swept
    each = [results.params[name] for name in (f"{over} lr=0.001", f"{over} lr=0.1")]
    both = jax.tree.map(lambda *x: np.stack(x), *each)  # [settings, seeds, ...]
    encoded = encode(prepare(parsed(config)), lambda line: None)
    part = encoded.parts["sketch", "test"]

    def right(model):
        layer = model["classifier"]["layer_0"]
        logits = jnp.asarray(part.features) @ layer["kernel"] + layer["bias"]
        return float((logits.argmax(axis=1) == part.labels).mean())

    if over == "all":
        means = [jax.tree.map(lambda x: x.mean(axis=(0, 1)), both)]
    else:
        means = [jax.tree.map(lambda x: x[:, i].mean(axis=0), both) for i in range(2)]  # noqa: B023
    rows = own_rows(results.rows)
    found = rows[f"{over} uniform soup", "sketch"]["accuracies"]
    assert found == pytest.approx([right(mean) for mean in means], abs=1e-6)
    assert len(rows[f"{over} greedy soup", "sketch"]["accuracies"]) == len(means)
    told = results.results["soups"][f"{over} greedy soup"]
    assert [len(soup["of"]) for soup in told] == ([4] if over == "all" else [2, 2])
    for soup in told:
        known = [run["source_val"] for run in soup["of"]]
        assert known[soup["taken"][0]] == max(known) <= soup["source_val"]
    assert any(note.startswith(f"{over} greedy soup: ") for note in notes(results.results))


@pytest.mark.parametrize(
    "change, sweep, words",
    [
        ({"heads": {"start": "random"}}, (), "starts at random, differently .* over=settings"),
        ({"heads": {"classifier": (4,)}}, (), "starts at random, differently for each seed"),
        ({"heads": {"discriminator": (4,)}, "loss": "dann"}, (), "starts at random, differently"),
        ({"loss": "probe", "heads": None}, (), "'probe' is a closed form, the same for every seed"),
        (
            {"soup": {"over": "settings"}},
            (),
            "over=settings has one run, and no mean; give a sweep",
        ),
        ({"soup": {"kinds": ()}}, (), r"soup.kinds is \(\); give a tuple of uniform and greedy"),
        (
            {"soup": {"over": "settings"}},
            {"methods.m.heads.classifier": ((4,), (8,))},
            "differ in their heads, so their weights have no mean",
        ),
        ({}, {"methods.m.freeze": (("clip/.*",), ())}, "differ in what trains"),
        ({}, {"data.target": ("clipart", "flat")}, "differ in their target"),
    ],
)
def test_what_has_no_mean_is_refused(change, sweep, words):
    entry = {k: v for k, v in (HEAD | {"soup": {}} | change).items() if v is not None}
    config = config_of("", "tiny", m=entry)
    config.sweep = (sweep,) if sweep else ()
    with pytest.raises(ConfigError, match=words):
        methods_of(config)
