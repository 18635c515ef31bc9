"""Averages in training that stops in the middle and goes on: SWA's and SWAD's, from pixels."""

import jax
import numpy as np
import pytest

from clipjax.adapt.average import joined
from clipjax.errors import ConfigError
from clipjax.evaluate.results import notes
from clipjax.evaluate.valley import loss_valley
from clipjax.study import run
from clipjax.study.encode import encode_texts
from clipjax.study.plan import prepare
from clipjax.study.trainer import trainers
from clipjax.train.preemption import Notice, Preempted
from tests.conftest import methods_of, parsed, read_json
from tests.study.test_study import config_of, trained

PIXELS = ("clip/text/.*", "clip/vision/embedding", "clip/logit_scale")
RISE = {"schedule": "constant", "warmup": 1.0, "warmup_kind": "cosine"}
RISE |= {"warmup_from": 1e-3, "lr": 1e-2}
HEAD = {"loss": "finetune", "heads": {}}
SWA = HEAD | {"epochs": 3, "freeze": PIXELS, "optim": RISE, "average": {"every": "epoch"}}
VALLEY = {"kind": "swad", "converge": 2, "tolerance": 3}
SWAD = HEAD | {"epochs": 8, "average": VALLEY, "optim": {"lr": 0.1, "schedule": "constant"}}


def options(valley):
    return {key: value for key, value in valley.items() if key != "kind"}


@pytest.mark.slow
def test_averages_go_on_where_they_were(photos, wee_clip, tmp_path, monkeypatch, programs):
    """Stopped inside an epoch of SWA's rising phase and inside a segment of SWAD: the same bits."""
    swad = SWAD | {"freeze": PIXELS, "epochs": 4}
    swad["average"] = VALLEY | {"converge": 1, "tolerance": 1}
    config = config_of(photos, wee_clip, swa=SWA, swad=swad)
    config.seeds, config.keep, config.save_every = (0,), 1, 2
    whole = run(parsed(config), tmp_path / "whole", pages=False, programs=programs)
    per_epoch = next(r["step"] // r["epoch"] for r in whole.curves if "epoch" in r)
    assert per_epoch > 1
    stops, left = [2 * per_epoch + 1, per_epoch + 1], []  # of swa, then of swad

    def reached(notice, step):
        if len(left) < 2 and step == stops[len(left)]:
            left.append(step)
            return True
        return False

    monkeypatch.setattr(Notice, "reached", reached)
    found = None
    while found is None:
        try:
            found = run(parsed(config), tmp_path / "parts", pages=False, programs=programs)
        except Preempted:
            continue
    assert len(left) == 2
    for name in ("swa", "swad"):
        one, two = (each.trained[name].variants for each in (whole, found))
        assert set(one) == {"last", "average"}
        jax.tree.map(np.testing.assert_array_equal, one, two)
    assert whole.results["valleys"] == found.results["valleys"]
    again = trained(config, tmp_path / "parts", "swad", programs).variants
    jax.tree.map(np.testing.assert_array_equal, again, found.trained["swad"].variants)


@pytest.mark.slow
def test_the_average_is_of_the_valley_and_no_other_checkpoint_stays(
    photos, wee_clip, tmp_path, programs
):
    config = config_of(photos, wee_clip, swad=SWAD)
    config.keep, config.epochs = 99, 8
    results = run(parsed(config), tmp_path / "all", pages=False, programs=programs)
    config.keep = 1
    few = run(parsed(config), tmp_path / "few", pages=False, programs=programs)
    losses = np.array(
        [r["evaluation"]["source_val_loss"] for r in results.curves if "evaluation" in r]
    ).T  # [seeds, validations]
    (trainer,) = trainers(encode_texts(prepare(parsed(config))), tmp_path / "all", programs)
    begin = jax.vmap(lambda s: trainer.recipe.begin(0, s, {}))
    like = jax.eval_shape(begin, trainer.start_shapes())
    with trainer.checkpointer(trainer.method.phases[-1]) as checkpointer:
        means = [checkpointer.restore(like, step)[0].average for step in checkpointer.steps]
    assert len(means) == 8
    per_epoch = trainer.per_epoch
    for seed, mine in enumerate(losses):
        found = loss_valley(mine.tolist(), **options(VALLEY))
        mean = joined(means[found.start : found.end + 1])
        for each in (results, few):
            kernel = each.trained["swad"].variants["average"]["classifier"]["layer_0"]["kernel"]
            wanted = mean.params["classifier"]["layer_0"]["kernel"]
            np.testing.assert_allclose(kernel[seed], wanted[seed], rtol=1e-6)
        assert mean.total[seed] == (found.end - found.start + 1) * per_epoch
        told = few.results["valleys"]["swad"][seed]
        assert (told["first"], told["last"]) == (found.start + 1, found.end + 1)
    assert any(
        note.startswith("average of swad (SWAD): of every step") for note in notes(few.results)
    )
    assert read_json(tmp_path / "few" / "results.json")["valleys"] == few.results["valleys"]


@pytest.mark.parametrize(
    "average, more, words",
    [
        ({"every": "epoch"}, {}, "kind=swad is of every step; leave out every=epoch"),
        ({"tolerance": 2, "converge": 3}, {}, "tolerance=2 is below converge=3"),
        ({"kind": "ema", "ratio": 0.5}, {}, "converge and tolerance and ratio are of kind=swad"),
        ({"kind": "uniform", "decay": 0.5}, {}, "decay and debias are of kind=ema; leave out"),
        ({"converge": 6, "tolerance": 6}, {"save_every": 2}, "4 validations, and no valley of"),
        ({}, {"patience": 2, "selection": "source_val"}, "patience ends a run when it will"),
    ],
)
def test_a_valley_that_cannot_be_is_refused(average, more, words):
    config = config_of("", "tiny", m=SWAD | {"average": {"kind": "swad"} | average})
    config.update(more)
    with pytest.raises(ConfigError, match=words):
        methods_of(config)


def test_segments_end_at_validations():
    entry = SWAD | {"phases": {"a": {"epochs": 3}, "b": {"epochs": 8, "average": VALLEY}}}
    entry = {k: v for k, v in entry.items() if k not in ("epochs", "average")}
    config = config_of("", "tiny", m=entry | {"phase_order": ("a", "b")})
    config.save_every = 2
    with pytest.raises(ConfigError, match="begins after epoch 3, between two validations"):
        methods_of(config)
