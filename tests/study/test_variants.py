"""Further results of a method: the average of its last epochs, its weights drawn to zero-shot."""

import jax
import numpy as np
import pytest

from clipjax.study import run
from clipjax.study.encode import encode_texts
from clipjax.study.plan import prepare
from clipjax.study.trainer import trainers
from tests.conftest import parsed
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
}


@pytest.fixture(scope="module")
def averaged(photos, wee_clip, tmp_path_factory):
    """A finished run that selects an epoch, of a method that averages its last two."""
    workdir = tmp_path_factory.mktemp("variants") / "run"
    config = config_of(photos, wee_clip, swa=SWA)
    config.keep, config.selection = 9, "source_val"
    return config, workdir, run(parsed(config), workdir, pages=False)


@pytest.mark.slow
def test_an_average_is_of_the_last_epochs_whatever_is_selected(averaged):
    config, workdir, results = averaged
    (trainer,) = trainers(encode_texts(prepare(parsed(config))), workdir)
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
    for found in (results.trained["swa"], trained(config, workdir, "swa")):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            found.variants["average"],
            mean,
        )
    assert {row["variant"] for row in results.rows if row["method"] == "swa"} == {"last", "average"}
    mine = [r for r in results.curves if r.get("phase") == "swa/swa" and "lr" in r]
    rates = list(dict.fromkeys(record["lr"] for record in mine))
    assert rates == sorted(rates) and 1e-3 <= rates[0] < rates[-1] <= 1e-2
