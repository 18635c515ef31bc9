"""Further results of a method: the average of its last epochs, its weights drawn to zero-shot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.errors import ConfigError
from clipjax.evaluate import wise
from clipjax.evaluate.report.figures import wise_chart
from clipjax.evaluate.results import notes
from clipjax.evaluate.rows import row
from clipjax.study import run
from clipjax.study.encode import encode_texts
from clipjax.study.plan import prepare
from clipjax.study.recipe import average_rule
from clipjax.study.trainer import trainers
from clipjax.study.training import Average
from clipjax.train import restore
from clipjax.train.phases import Span
from tests.conftest import methods_of, parsed
from tests.study.test_study import config_of, trained

RISE = {"schedule": "constant", "warmup": 1.0, "warmup_kind": "cosine"}
RISE |= {"warmup_from": 1e-3, "lr": 1e-2}
SWA = {
    "loss": "finetune",
    "heads": {},
    "phases": {
        "train": {"epochs": 1},
        "swa": {
            "epochs": 4,
            "optim": RISE,
            "average": {"every": "epoch", "last": 2},
        },
    },
    "phase_order": ("train", "swa"),
    "wise": (0.25, 0.5),
}
TEXT = {"loss": "finetune", "heads": {"text": True}, "freeze": ("clip/vision/.*",), "epochs": 1}
TEXT |= {"optim": {"lr": 1e-3}, "wise": (0.5,)}


@pytest.fixture(scope="module")
def averaged(photos, wee_clip, tmp_path_factory, programs):
    """A finished run that selects an epoch, of a method that averages its last two."""
    workdir = tmp_path_factory.mktemp("variants") / "run"
    config = config_of(photos, wee_clip, swa=SWA, text=TEXT | {"loss": "flyp"})
    config.keep, config.selection = 9, "source_val"
    return config, workdir, run(parsed(config), workdir, pages=False, programs=programs)


@pytest.mark.slow
def test_an_average_is_of_the_last_epochs_whatever_is_selected(averaged, programs):
    config, workdir, results = averaged
    trainer, _ = trainers(encode_texts(prepare(parsed(config))), workdir, programs)
    read = lambda at: at[0].params
    with trainer.checkpointer(trainer.method.phases[-1]) as checkpointer:
        *_, one, two = checkpointer.steps
        assert len(checkpointer.steps) == 4
        like = trainer.start_shapes()
        for index in range(2):
            begin = jax.vmap(lambda s, i=index: trainer.recipe.begin(i, s, {}))
            like = jax.eval_shape(begin, like)
        ends = [read(checkpointer.restore(like, step)) for step in (one, two)]
    mean = jax.tree.map(lambda a, b: (np.asarray(a) + np.asarray(b)) / 2, *ends)
    for found in (results.trained["swa"], trained(config, workdir, "swa", programs)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            found.variants["average"],
            mean,
        )
    found = {row["variant"] for row in results.rows if row["method"] == "swa"}
    assert found == {"last", "average", "wise_0.25", "wise_0.5"}
    mine = [r for r in results.curves if r.get("phase") == "swa/swa" and "lr" in r]
    rates = list(dict.fromkeys(record["lr"] for record in mine))
    assert rates == sorted(rates) and 1e-3 <= rates[0] < rates[-1] <= 1e-2


@pytest.mark.slow
def test_a_checkpoint_is_read_once_for_all_runs(averaged, programs, monkeypatch):
    config, workdir, _ = averaged
    reads, read = [], restore.read_state
    keep = lambda place, wanted: reads.append((place.name, *wanted)) or read(place, wanted)
    monkeypatch.setattr(restore, "read_state", keep)
    trained(config, workdir, "swa", programs)
    assert reads and len(set(reads)) == len(reads)
    assert {"params", "average"} <= set(reads[0]) and "opt_state" not in reads[0]


@pytest.mark.slow
def test_weights_are_drawn_to_those_of_zero_shot(averaged, programs):
    """Of a linear head, and of a text tower and its temperature."""
    config, workdir, results = averaged
    plan = prepare(parsed(config))
    texts = encode_texts(plan)
    starts = {
        "swa": {"classifier": {"layer_0": {"kernel": texts.scale * texts.text_weights.T}}},
        "text": {"clip": plan.params},
    }
    for name, begin in starts.items():
        for found in (results.trained[name], trained(config, workdir, name, programs)):
            variants = found.variants
            one = jax.tree_util.tree_leaves_with_path(variants["wise_0.5"])
            last = dict(jax.tree_util.tree_leaves_with_path(variants["last"]))
            moved = 0
            for path, value in one:
                start = begin
                for key in path:
                    start = start.get(key.key, 0.0) if isinstance(start, dict) else start
                np.testing.assert_allclose(value, (start + last[path]) / 2, rtol=1e-5, atol=1e-6)
                moved += np.abs(last[path] - start).max() > 0
            assert moved
    curve = results.results["wise"]["swa"]["curve"]
    assert [point["alpha"] for point in curve] == [0.0, 0.25, 0.5, 1.0]
    best = max(point["source_val"] for point in curve)
    picked = [point["alpha"] for point in curve if point["source_val"] == best]
    assert results.results["wise"]["swa"]["alpha"] == picked[0]
    assert any(note.startswith("WiSE of text: alpha ") for note in notes(results.results))
    drawn = wise_chart(results.results, {})
    assert "mean of the others (OOD)" in drawn and "by validation</text>" in drawn
    assert drawn.count("<circle") >= 4  # each alpha, and both marks


def test_the_share_is_chosen_on_source_validation():
    rows = [
        wise_row(method, variant, domain, split, value)
        for method, variant, values in (
            ("zero_shot", "last", (0.5, 0.5, 0.6, 0.4)),
            ("m", "last", (0.8, 0.9, 0.3, 0.1)),
            ("m", "wise_0.5", (0.8, 0.7, 0.5, 0.5)),
            ("m", "wise_0.2", (0.7, 0.6, 0.9, 0.9)),
        )
        for (domain, split), value in zip(PLACES, values, strict=True)
    ]
    found = wise.curves(rows, "real")["m"]
    assert found["alpha"] == 0.5  # of as good a validation as the trained ones
    assert found["curve"][1] == {"alpha": 0.2, "source_val": 0.7, "source": 0.6, "others": 0.9}
    assert wise.curves(rows[:8], "real") == {}
    joined = wise.curves(
        [{**each, "domain": NAMES[each["domain"]]} for each in rows], "real+sketch"
    )
    assert joined["m"]["curve"][-1]["others"] == 0.1  # sketch was trained on
    said = wise.sentences({"wise": {"m": found}})[0]
    ends = "alpha 0.5 70.0, 50.0; zero-shot 50.0, 50.0; as trained 90.0, 20.0"
    assert said.endswith(f"{ends}; alpha 0.2 60.0, 90.0")


NAMES = {"real": "real+sketch", "sketch": "sketch", "clipart": "clipart"}
PLACES = (("real", "val"), ("real", "test"), ("sketch", "test"), ("clipart", "test"))


def wise_row(method, variant, domain, split, value):
    measures = {"accuracy": [value], "macro_accuracy": [value]}
    return row(method, domain, split, 10, measures, variant=variant)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"heads": {"classifier": (4,)}}, "m: wise draws to zero-shot, where it does not start"),
        ({"align": "coral"}, "where it does not start; .* without align"),
        ({"wise": (0.0, 0.5)}, r"m.wise is \(0.0, 0.5\); give a tuple of numbers between 0 and 1"),
        ({"wise": True}, "m.wise is True; give a tuple"),
        ({"loss": "maml", "episodes": {"way": 2}}, "wise draws to zero-shot, where it does not"),
    ],
)
def test_weights_are_not_drawn_to_random_ones(change, words):
    entry = {"loss": "finetune", "heads": {}, "wise": (0.5,)} | change
    with pytest.raises(ConfigError, match=words):
        methods_of(config_of("", "tiny", m=entry))


def test_an_average_begins_after_its_share_whatever_its_rounding():
    rule = average_rule(Average(start=0.57), Span(200, 100, ()), 10, 1)
    assert [float(rule.weight(jnp.int32(step))) for step in (257, 258)] == [0.0, 1.0]


def test_an_average_of_last_epochs_is_of_the_last_of_its_phases():
    entry = {"loss": "finetune", "heads": {}, "average": {"last": 3}, "epochs": 4}
    entry |= {"unfreeze": {"order": ("clip/vision/block_1",), "epochs": 1}, "freeze": ()}
    assert methods_of(config_of("", "tiny", m=entry))["m"].phases[-1].average.last == 3
    entry["average"] = {"last": 4}
    with pytest.raises(ConfigError, match="average.last is 4, and it trains 3 epochs"):
        methods_of(config_of("", "tiny", m=entry))
    with pytest.raises(ConfigError, match="'prototypes' takes no steps to average over"):
        methods_of(config_of("", "tiny", m={"loss": "prototypes", "average": {}}))


@pytest.mark.parametrize("average", [{"start": 0.5}, {"last": 1}, {"kind": "beta"}])
def test_an_average_of_epochs_that_may_never_come_is_refused(average):
    """Stopped before it began, it would be the mean of nothing: zeros."""
    config = config_of("", "tiny", m={"loss": "finetune", "heads": {}, "average": average})
    config.update(patience=2, selection="source_val")
    with pytest.raises(ConfigError, match="m: patience ends a run when it will.* patience=0"):
        methods_of(config)
