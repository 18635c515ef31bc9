"""CLIP-CITE from pixels to results, resumed in the middle of an average; terms added to others."""

import shutil

import jax
import numpy as np
import pytest

from clipjax.errors import ConfigError
from clipjax.study import run
from clipjax.study.encode import encode_texts
from clipjax.study.folded import folded
from clipjax.study.plan import prepare
from clipjax.study.recipe import Programs
from clipjax.study.trainer import trainers
from clipjax.train.restore import shapes
from tests.conftest import parsed
from tests.study.test_study import config_of

TEXT = {"heads": {"text": True}, "optim": {"lr": 1e-3}, "epochs": 2}
CITE = TEXT | {
    "loss": "cite",
    "freeze": ("clip/logit_scale",),
    "average": {"kind": "beta", "b": 0.1},
    "wise": (0.5,),
    "result": "wise_0.5",
}
ADDED = TEXT | {"loss": "finetune", "freeze": ("clip/vision/.*", "clip/logit_scale")}
ADDED |= {"contrastive_weight": 0.7, "distill_weight": 0.1}


@pytest.mark.slow
def test_a_run_resumes_in_an_average_and_its_teacher_stays_outside(photos, wee_clip, tmp_path):
    config = config_of(photos, wee_clip, cite=CITE, added=ADDED)
    config.seeds, programs = (0,), Programs()
    whole = run(parsed(config), tmp_path / "whole", pages=False, programs=programs)
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    (cut / "results.json").unlink()
    steps = [sorted(folder.iterdir(), key=lambda p: int(p.name)) for folder in _states(cut)]
    for _, end in steps:  # after the first of two epochs
        shutil.rmtree(end)
    written = [begun.stat().st_mtime_ns for begun, _ in steps]
    resumed = run(parsed(config), cut, pages=False, programs=programs)
    assert written == [begun.stat().st_mtime_ns for begun, _ in steps]  # not trained anew
    for name in ("cite", "added"):
        found, want = (results.trained[name].variants for results in (resumed, whole))
        jax.tree.map(np.testing.assert_array_equal, found, want)
    variants = whole.trained["cite"].variants
    assert set(variants) == {"last", "average", "wise_0.5"}
    rows = [row["variant"] for row in whole.rows if row["method"] == "cite"]
    assert set(rows) == set(variants) and rows[0] == next(iter(variants)) == "wise_0.5"

    plan = prepare(parsed(config))
    (trainer, _) = trainers(encode_texts(plan), tmp_path / "whole")
    teacher = trainer.shared(0)["teacher"]
    jax.tree.map(np.testing.assert_array_equal, teacher, plan.params)
    last, half = (variants[name]["clip"] for name in ("last", "wise_0.5"))
    for tower in ("vision", "text"):  # both are drawn half way back
        middle = jax.tree.map(lambda a, b: (a + b[0]) / 2, plan.params[tower], last[tower])
        near = lambda a, b: np.testing.assert_allclose(a, b[0], atol=1e-6)
        jax.tree.map(near, middle, half[tower])
        moved = jax.tree.map(lambda a, b: np.abs(a - b[0]).max(), plan.params[tower], last[tower])
        assert max(jax.tree.leaves(moved)) > 1e-4
    held = folded(trainer.encoded, tmp_path / "whole", "cite", 0)  # by an export, without asking
    for tower in ("vision", "text"):
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a, b[0]), held.clip[tower], half[tower]
        )
    told = str(jax.tree_util.tree_structure(shapes(steps[0][0])))
    assert "'table'" in told and "teacher" not in told and "logit_scale" not in told

    first = next(record for record in whole.curves if record.get("phase") == "added")
    assert first["contrastive_loss"][0] > 0 and 0 <= first["distill_loss"][0] < 0.1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"result": "wise_0.3"}, "'wise_0.3'; its results are last, average, wise_0.5"),
        ({"wise": (), "average": {}}, "'wise_0.5'; its results are last, average"),
        ({"result": 0.5}, "0.5; its results are"),
    ],
)
def test_a_result_that_is_none_of_a_methods_is_refused(photos, wee_clip, changes, told):
    with pytest.raises(ConfigError, match=f"methods.m.result is {told}"):
        parsed(config_of(photos, wee_clip, m=CITE | changes))


def test_phases_of_other_parameters_are_refused(photos, wee_clip):
    phases = {"one": {}, "two": {"alignment": "text"}}
    entry = CITE | {"phases": phases, "phase_order": ("one", "two")}
    entry = {key: value for key, value in entry.items() if key != "average"}
    with pytest.raises(ConfigError, match="methods.m/one: its options make other parameters than"):
        prepare(parsed(config_of(photos, wee_clip, m=entry)))


def _states(workdir):
    """The folders of both methods' checkpoints."""
    return [workdir / "checkpoints" / "cite" / "seed0", workdir / "checkpoints" / "added"]
