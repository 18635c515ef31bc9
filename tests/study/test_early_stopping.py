"""Early stopping: where a phase ends, what is taken of it, and that a killed run ends there too."""

import jax
import numpy as np
import pytest

from clipjax.errors import ConfigError
from clipjax.evaluate.select import best_steps, select
from clipjax.evaluate.stopping import stop_epoch
from clipjax.log import read_log
from clipjax.study import parse, run
from clipjax.train.checkpoint import Checkpointer
from tests.conftest import parsed
from tests.study.test_study import config_of, trained

HEAD = {"loss": "finetune", "heads": {"classifier": (8,)}, "optim": {"schedule": "constant"}}
PIXELS = {"freeze": ("clip/text/.*", "clip/vision/embedding", "clip/logit_scale")}


def history(*scores, rule="source_val"):
    return [{"epoch": 2 * n, rule: score} for n, score in enumerate(scores, 1)]


def test_a_run_ends_when_its_patience_does():
    found = history(0.5, 0.6, 0.6, float("nan"), None)
    assert [stop_epoch(found, "source_val", patience) for patience in (1, 2, 3, 4)] == [
        6,
        8,
        10,
        None,
    ]
    assert stop_epoch(history(0.5, 0.55, 0.62), "source_val", 2, min_delta=0.1) is None
    assert stop_epoch(history(0.5, 0.55, 0.6), "source_val", 2, min_delta=0.1) == 6
    falling = history(0.5, 0.4, 0.3, 0.3, rule="proxy_a_distance")  # smaller is better
    assert stop_epoch(falling, "proxy_a_distance", 1) == 8


def test_checkpoints_after_a_runs_end_do_not_take_the_place_of_its_best():
    scores = [(1, 0.9, 0.1), (2, 0.8, 0.2), (3, 1.0, 0.3)]
    scored = [{"step": s, "evaluation": {"oracle": [a, b]}} for s, a, b in scores]
    assert best_steps(scored, "oracle", 1) == {3}
    assert best_steps(scored, "oracle", 1, ends=(2, None)) == {1, 3}


def test_patience_needs_a_score():
    with pytest.raises(ConfigError, match="patience=3 waits .*selection=last has none"):
        parse({"patience": 3})
    assert parse({"patience": 3, "selection": "source_val"}).training.min_delta == 0.0


@pytest.mark.slow
def test_seeds_of_one_program_end_by_their_own_validations(photos, wee_clip, tmp_path, programs):
    more = {"optim": {"lr": 0.3}, "average": {"kind": "uniform"}}
    config = config_of(photos, wee_clip, dann=HEAD | more)
    config.epochs, config.patience, config.selection = 12, 1, "source_val"
    config.seeds, config.keep = (0, 1, 2), 1
    said = []
    found = run(parsed(config), tmp_path, said.append, pages=False, programs=programs)
    scores = [r["evaluation"]["source_val"] for r in found.curves if "evaluation" in r]
    raw = [
        [{"epoch": e, "source_val": s} for e, s in enumerate(run, 1)]
        for run in zip(*scores, strict=True)
    ]
    ends = [stop_epoch(entries, "source_val", 1) for entries in raw]
    assert max(ends) == len(scores) < 12
    assert (
        f"dann ends after epoch {len(scores)} of 12: no better source_val in 1 validations" in said
    )
    again = trained(config, tmp_path, programs=programs)
    assert [entries[-1]["epoch"] for entries in again.history] == ends
    picked = [
        select(entries[:end], "source_val")["epoch"] for entries, end in zip(raw, ends, strict=True)
    ]
    assert found.results["selection_rules"]["dann"]["source_val"]["epoch"] == picked
    jax.tree.map(np.testing.assert_array_equal, found.params["dann"], again.params)
    first = int(np.argmin(ends))  # its mean is of its own end, as if it ran alone
    assert ends[first] < len(scores)
    config.seeds = (first,)
    found = run(parsed(config), tmp_path / "alone", pages=False, programs=programs)
    alone = found.trained["dann"].variants["average"]
    close = lambda a, b: np.testing.assert_allclose(a[first], b[0], rtol=1e-4, atol=1e-6)
    jax.tree.map(close, again.variants["average"], alone)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, PIXELS], ids=["features", "pixels"])
def test_a_killed_run_ends_at_the_same_epoch(photos, wee_clip, tmp_path, more, programs):
    """Rate 0: nothing gets better, so 2 validations after the first it ends, whenever killed."""
    config = config_of(photos, wee_clip, dann=HEAD | {"optim": {"lr": 0.0}} | more)
    config.seeds, config.epochs, config.patience = (0,), 9, 2
    config.selection = "source_val"
    original, per_epoch = Checkpointer.save, []

    def killed(at):
        def save(self, step, *rest, **options):
            if "dann" in str(self.directory):
                per_epoch.append(step)
                if len(per_epoch) == at:
                    raise KeyboardInterrupt
            return original(self, step, *rest, **options)

        return save

    for at in (2, 4):  # before the second checkpoint, and before the one at which it ends
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Checkpointer, "save", killed(at))
            run(parsed(config), tmp_path, pages=False, programs=programs)
    found = run(parsed(config), tmp_path, pages=False, programs=programs)
    epochs = [r["epoch"] for r in read_log(tmp_path / "metrics.jsonl") if "evaluation" in r]
    assert epochs == [1, 2, 3]
    again = trained(config, tmp_path, programs=programs)
    assert [e["epoch"] for e in again.history[0]] == [1, 2, 3]
    assert found.results["selection_rules"]["dann"]["source_val"]["epoch"] == [3]
