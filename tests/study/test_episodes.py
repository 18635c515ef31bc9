"""Episodes through a study: what is trained on, what is judged, what is refused at the start."""

import dataclasses

import jax
import numpy as np
import pytest

from clipjax.errors import ConfigError, DataError
from clipjax.evaluate.episodes import cells, interval
from clipjax.study import Data, Encoder, Study, Training, prepared, run
from clipjax.study.encode import encode_texts
from clipjax.study.episode_sizes import judging_sampler, left_out, training_sampler
from clipjax.study.header import header
from clipjax.study.plan import prepare
from clipjax.study.training import Episodes
from tests.conftest import methods_of
from tests.study.test_study import config_of

SIZES = {"way": 2, "shot": 1, "query": 1, "count": 4, "tasks": 2, "test": 20, "held_out": 0}
HEADS = {"adapter": (4,)}
METHODS = {
    "prototypes": {"loss": "prototypes", "episodes": SIZES},
    "protonet": {"loss": "protonet", "heads": HEADS, "episodes": SIZES, "memory": 2},
    "maml": {"loss": "maml", "heads": HEADS, "episodes": SIZES, "steps": 2, "inner": "all"},
}


def study_of(photos, wee_clip, methods=METHODS, **training):
    return Study(
        encoder=Encoder(model=str(wee_clip)),
        data=Data(root=str(photos), source="real", target="sketch", fractions=(0.5, 0.1, 0.4)),
        training=Training(**{"seeds": (0, 1), "epochs": 2, "save_every": 2} | training),
        methods=methods,
        stages=tuple(methods),
    )


def test_methods_are_judged_by_episodes_beside_clip(photos, wee_clip, tmp_path):
    methods = {name: METHODS[name] for name in ("prototypes", "protonet")}
    found = run(study_of(photos, wee_clip, methods), tmp_path / "run", pages=False)
    rows = found.results["episodes"]
    names = ("zero_shot", "class means", *methods)
    assert [(r["method"], r["domain"]) for r in rows] == [
        (name, domain) for name in names for domain in ("real", "sketch")
    ]
    by_name = {(row["method"], row["domain"]): row for row in rows}
    for row in rows:
        assert row["count"] == 20 and row["way"] == 2 and row["seen"]
        assert row["accuracy"] == pytest.approx(np.mean(row["accuracies"]), abs=1e-5)
        assert row["ci95"] >= 0 and len(row["accuracies"]) in (1, 2)
    # The same episodes for all: class means are prototypes.
    assert by_name["prototypes", "real"]["accuracy"] == by_name["class means", "real"]["accuracy"]
    said = (tmp_path / "run" / "results.md").read_text()
    assert "in % of 20 episodes (papers take 600 or more)" in said and "training saw, too" in said
    assert "| few-shot episodes | task | real | sketch |" in said and "1.96 standard errors" in said
    # By CLIP's own scale: the weights of a class are 2 scale c, its bias is -scale |c|^2.
    layer = found.params["prototypes"]["classifier"]["layer_0"]
    scale = np.sum(layer["kernel"][0] ** 2, axis=0) / (-4 * layer["bias"][0])
    np.testing.assert_allclose(scale, encode_texts(prepare(found.study)).scale, rtol=1e-4)
    assert abs(scale[0] - 1) > 0.01
    # All classes are answered for, too: by what was kept of each.
    assert {row["method"] for row in found.rows} == {"zero_shot", *methods}
    assert found.params["protonet"]["memory"]["inputs"].shape[:3] == (2, 3, 2)
    told = header(prepare(found.study), None)
    assert "2 steps of 2 episodes of 2 classes, about" in " ".join(told.split())


def test_a_single_episode_has_no_interval():
    row = {"method": "m", "variant": "", "way": 5, "shot": 1, "domain": "real"}
    row["accuracy"], row["ci95"] = interval([0.6])
    assert cells({"episodes": [row]})[1] == [["m", "5-way 1-shot", "60.0"]]
    row["accuracy"], row["ci95"] = interval([0.5, 0.7, 0.6, 0.6])
    assert cells({"episodes": [row]})[1] == [["m", "5-way 1-shot", "60.0 ± 8.0"]]


def test_held_out_classes_are_in_no_training_episode_and_alone_in_tests():
    episodes = Episodes(way=3, shot=1, query=1, count=40, held_out=4, test_way=4)
    out, labels = left_out(episodes, 9), np.repeat(np.arange(9), 3)
    assert len(out) == 4 and out != left_out(dataclasses.replace(episodes, held_out_seed=1), 9)
    plan = training_sampler(episodes, 9).plan(jax.random.key(0), 27, 0, 0, labels)
    trained = set(labels[np.asarray(plan["support"])].ravel())
    assert trained == set(range(9)) - set(out)
    plan = judging_sampler(episodes, 9)._replace(count=5).plan(jax.random.key(0), 27, 0, 0, labels)
    assert set(labels[np.asarray(plan["source"])].ravel()) == set(out)


def test_classes_are_held_out_where_episodes_judge_unless_the_config_says_none():
    episodes = {"way": 5, "shot": 1}
    config = config_of("", "tiny", usual=entry()["m"], none=entry()["m"], untested=entry()["m"])
    config.methods.usual.episodes = episodes
    config.methods.none.episodes = episodes | {"held_out": 0}
    config.methods.untested.episodes = episodes | {"test": 0}
    built = methods_of(config, 28)
    found = {name: method.config.episodes.held_out for name, method in built.items()}
    assert found == {"usual": 11, "none": 0, "untested": 0}
    assert built["usual"].config.episodes.test == 600


def entry(loss="protonet", **changes):
    more = {"heads": HEADS} if loss != "prototypes" else {}
    episodes = SIZES | {k: v for k, v in changes.items() if k != "freeze"}
    more |= {"freeze": changes["freeze"]} if "freeze" in changes else {}
    return {"m": {"loss": loss, "episodes": episodes} | more}


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (entry(way=4), "episodes.way is 4, but there are 3 classes to train on; take fewer"),
        (entry("prototypes", way=4), "episodes.way is 4, but there are 3 classes to be judged on"),
        (
            entry(held_out=-1),
            "1 classes to train on of 3, with held_out=2; take fewer; or held_out=0",
        ),
        (entry(way=1, test_way=2, held_out=1), "test_way is 2, but there are 1 classes to be"),
        (entry(held_out=2), r"way is 2, but there are 1 classes to train on of 3, with held_out=2"),
        (entry(shot=4), "episodes of 2 classes need 5 labelled images of each; 0 classes have"),
        (entry("prototypes", shot=3), "test episodes of 2 classes need 4 test images of each; 0"),
        (entry(tasks=3), "count=4 cannot be dealt out to tasks=3; choose a divisor"),
        (entry(freeze=()), "keeps embeddings to answer by, and the image tower would leave them"),
        ({"m": {"loss": "gda", "episodes": SIZES}}, "loss 'gda' takes no episodes"),
        ({"m": {"loss": "maml", "heads": HEADS}}, "loss 'maml' needs episodes"),
    ],
)
def test_episodes_that_cannot_be_are_refused_at_the_start(photos, wee_clip, methods, words):
    with pytest.raises((ConfigError, DataError), match=words):
        prepare(study_of(photos, wee_clip, methods))


def test_tasks_too_large_for_memory_are_refused_with_their_size(photos, wee_clip, monkeypatch):
    monkeypatch.setattr(prepared, "device_memory", lambda: 20_000)
    size = lambda **steps: prepared.task_bytes(
        prepare(asked(steps), training=False), prepare(asked(steps), training=False).methods["m"]
    )
    usual = {k: v for k, v in METHODS["maml"].items() if k != "steps"}
    asked = lambda steps: study_of(photos, wee_clip, {"m": usual | steps}, seeds=(0,))
    assert size() == size(steps=5) < size(steps=6)
    study = study_of(photos, wee_clip, {"m": METHODS["maml"] | {"steps": 40}}, seeds=(0,))
    with pytest.raises(ConfigError, match=r"a step of 2 tasks of 2 x \(1 \+ 1\) images needs ab"):
        prepare(study)
