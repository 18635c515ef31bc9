"""Sweeps: what a config's `sweep` means, and that its runs are those of separate configs."""

import json
import shutil

import jax
import numpy as np
import pytest

from clipjax import load_adapted
from clipjax.configs import sweep as sweep_config
from clipjax.errors import ConfigError
from clipjax.log import read_log
from clipjax.study import export, parse, run
from clipjax.study import workdir as workdirs
from clipjax.study.encode import encode_texts
from clipjax.study.methods import group_runs
from clipjax.study.plan import needed_parts, open_data, prepare
from clipjax.study.sweep import settings
from clipjax.study.trainer import trainers
from tests.conftest import methods_of, parsed, read_json
from tests.study.test_study import TRUNK, config_of, row_of

DANN = {"loss": "dann", "heads": TRUNK, "lam_max": 0.3, "label_smoothing": 0.1, "epochs": 2}
GRID = ({"optim.lr": 1e-3, "methods.dann.lam_max": 0.1, "methods.dann.label_smoothing": 0.0},
        {"optim.lr": 5e-3, "methods.dann.lam_max": 0.8, "optim.weight_decay": 0.1,
         "data.shots": 2, "data.subset_seed": 1},
        {"optim.lr": 5e-3, "data.shots": 2, "data.subset_seed": 3})  # fmt: skip


def test_the_config_that_ships_is_24_runs_of_two_programs():
    config = sweep_config.get_config()
    built = methods_of(config, 28)
    assert len(built) * len(config.seeds) == 24
    assert [len(names) for names in group_runs(built, lambda method: True)] == [2, 6]
    assert "dann lam_max=0.3 lr=0.003" in built
    assert built["dann lam_max=0.3 lr=0.003"].phases[0].optim.lr == 3e-3


def test_a_stage_that_a_setting_does_not_concern_is_not_repeated():
    config = sweep_config.get_config()
    config.sweep = ({"methods.dann.lam_max": (0.1, 0.3)},)
    study = parsed(config)
    names = ["finetune", "dann lam_max=0.1", "dann lam_max=0.3"]
    assert [method.name for method in study.trained] == names == list(study.settings)
    assert study.stages == ("finetune", "dann")  # as they were


def names_of(*sweep):
    config = sweep_config.get_config()
    config.sweep = sweep
    return [method.name for method in parsed(config).trained if method.stage == "dann"]


def test_different_settings_have_different_names():
    assert names_of({"optim.schedule": "constant"}, {"methods.dann.schedule": "constant"}) == [
        "dann optim.schedule=constant",
        "dann methods.dann.schedule=constant",
    ]
    assert names_of({"optim.gamma": 0.5, "optim.lr": 1e-3}, {"methods.dann.gamma": 0.5}) == [
        "dann optim.gamma=0.5 lr=0.001",
        "dann methods.dann.gamma=0.5",
    ]
    close = ["dann lr=0.12345671", "dann lr=0.12345674", "dann lr=0.1"]
    assert names_of({"optim.lr": (0.12345671, 0.12345674, 0.1)}) == close


def test_names_are_short_where_nothing_looks_alike():
    assert names_of({"optim.lr": (1 / 3, 1e-3), "methods.finetune.label_smoothing": 0.2}) == [
        "dann lr=0.333333",
        "dann lr=0.001",
    ]
    assert names_of({"optim.lr": 1}, {"optim.lr": 1.0}) == ["dann lr=1"]  # one setting


def test_a_setting_trains_what_its_name_says():
    config = sweep_config.get_config()
    config.sweep = ({"optim.schedule": "constant"}, {"methods.dann.schedule": "constant"})
    built = methods_of(config, 28)
    for name, (stage, own) in parsed(config).settings.items():
        (phase,) = built[name].phases
        assert phase.optim.schedule == own.get("optim.schedule", "cosine")
        if stage == "dann":
            assert phase.options["schedule"] == own.get("methods.dann.schedule", "ganin")


@pytest.mark.parametrize(
    "sweep, words",
    [
        ({"data.target": ("a b", "ab")}, "two settings .*called 'finetune target=ab'"),
        ({"optim.lr": 1e-3, "methods.dann.optim.lr": 1e-4}, "for dann are one field"),
        ({"methods.dann.heads": {"members": 2}, "methods.dann.heads.members": 3}, "one field"),
    ],
)
def test_settings_that_cannot_be_told_apart_are_refused(sweep, words):
    config = sweep_config.get_config()
    config.sweep = (sweep,)
    with pytest.raises(ConfigError, match=words):
        parsed(config)


def test_a_sweep_read_back_from_json_has_the_same_settings():
    config = sweep_config.get_config()
    config.sweep = (
        {"methods.dann.heads.adapter": ((256, 256), (8,), None)},
        {"optim.lr_mults": ((), (("adapter", 0.1),))},
        {"methods.dann.augment": ({"smallest": 0.5, "flip": False},)},
    )
    study = parsed(config)
    back = parse(json.loads(workdirs.config_text(study)))
    assert back.settings == study.settings and back.trained == study.trained
    assert "dann adapter=(256,256)" in back.settings


@pytest.mark.parametrize(
    "sweep, word",
    [
        ({"batch_size": (32, 64)}, "cannot vary 'batch_size'.*optim.<field>"),
        ({"optim.rate": (1, 2)}, "optim.rate"),
        ({"data.source": ("real",)}, "data.source.*data|data.*target"),
        ({"methods.dan.lam_max": (1.0,)}, "methods.dan.lam_max"),
        ({"optim.lr": ()}, "has no values"),
        (("optim.lr",), "tuple of grids"),
        ({"methods.dann.lam": (1.0, 2.0)}, "no option lam;.*Did you mean lam_max"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_name(sweep, word):
    config = config_of("", "tiny", dann=DANN)
    config.sweep = (sweep,) if isinstance(sweep, dict) else sweep
    with pytest.raises(ConfigError, match=word):
        methods_of(config)


@pytest.mark.parametrize(
    "sweep, word",
    [
        ({"data.target": ("sketch", "nowhere")}, "nowhere"),
        ({"data.target": ("real",)}, "two different"),
        ({"data.shots": (2, 99)}, "data.shots=99"),
    ],
)
def test_data_that_are_not_there_cannot_be_swept(photos, wee_clip, sweep, word):
    config = config_of(photos, wee_clip, dann=DANN)
    config.sweep = (sweep,)
    with pytest.raises(ConfigError, match=word):
        prepare(parsed(config))


@pytest.mark.slow
def test_data_of_methods_that_train_from_pixels_cannot_be_swept(photos, wee_clip):
    config = config_of(photos, wee_clip, dann=DANN | {"augment": {"smallest": 0.5}})
    config.sweep = ({"data.shots": (1, 2)},)
    with pytest.raises(ConfigError, match="trains from pixels"):
        prepare(parsed(config))


@pytest.fixture(scope="module")
def swept(photos, wee_clip, tmp_path_factory):
    """A finished sweep of DANN."""
    workdir = tmp_path_factory.mktemp("sweep") / "run"
    config = config_of(photos, wee_clip, dann=DANN)
    config.sweep = GRID
    return config, workdir, run(parsed(config), workdir, print)


def separate(config, stage, point):
    """The config of one setting alone, without a sweep."""
    own = config.copy_and_resolve_references()
    own.sweep, own.stages = (), (stage,)
    for field, value in point.items():
        place = own
        *path, last = field.split(".")
        if path[:1] == ["methods"] and path[1] != stage:
            continue
        for key in path:
            place = place[key]
        place[last] = value
    return own


@pytest.mark.slow
def test_runs_of_a_sweep_are_those_of_separate_configs(swept, tmp_path):
    config, workdir, found = swept
    log = read_log(workdir / "metrics.jsonl")
    results = read_json(workdir / "results.json")
    names = parsed(config).settings.items()
    for number, (name, (stage, _)) in enumerate(names):
        if number == 2:  # differs in nothing that the second does not
            continue
        point = GRID[number]
        alone, place = separate(config, stage, point), tmp_path / str(number)
        two = run(parsed(alone), place, pages=False).params[stage]
        one = found.params[name]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, two)
        mine = [r for r in log if r["phase"] == name and "evaluation" not in r]
        theirs = [r for r in read_log(place / "metrics.jsonl") if "evaluation" not in r]
        for a, b in zip(mine, theirs, strict=True):
            assert a["step"] == b["step"] and a["lr"] == b["lr"]
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        theirs = read_json(place / "results.json")
        assert row_of(results, name)["accuracies"] == row_of(theirs, stage)["accuracies"]


def products(config, workdir):
    """Matrix products in the train step of the first group of a config."""
    plan = prepare(parsed(config))
    trainer = trainers(encode_texts(plan), workdir)[0]
    heads = jax.tree.map(lambda x: x[0], trainer.start().params)
    rows = lambda n: jax.ShapeDtypeStruct((n, plan.clip_config.projection_dim), np.float32)
    labels = jax.ShapeDtypeStruct((6,), np.int32)
    batch = {"source": {"inputs": rows(6), "label": labels}, "target": {"inputs": rows(6)}}
    recipe = trainer.recipe
    step = recipe.step(0, recipe.backbone(cached=True), heads)
    state = jax.eval_shape(lambda: recipe.begin(0, trainer.start()._replace(params=heads), {}))
    one = state._replace(seed=jax.ShapeDtypeStruct((), np.uint32))
    return str(jax.make_jaxpr(step)(one, batch)).count("dot_general[")


@pytest.mark.slow
def test_cached_features_of_both_domains_go_through_the_networks_at_once(
    photos, wee_clip, tmp_path
):
    joined = products(config_of(photos, wee_clip, dann=DANN), tmp_path)
    apart = products(config_of(photos, wee_clip, dann=DANN | {"joined": False}), tmp_path)
    assert joined < apart  # what the user says stays


@pytest.mark.slow
def test_a_run_of_a_sweep_does_not_depend_on_the_others(swept, tmp_path):
    config, _, found = swept
    alone = config.copy_and_resolve_references()
    alone.sweep, alone.stages, alone.seeds = GRID[1:2], ("dann",), (1,)
    (name,) = parsed(alone).settings
    one = jax.tree.map(lambda x: x[1:], found.params[name])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        one,
        run(parsed(alone), tmp_path / "alone", pages=False).params[name],
    )


def test_methods_of_as_many_examples_are_one_program(swept):
    config, workdir, _ = swept
    plan = prepare(parsed(config))
    found = [t.names for t in trainers(encode_texts(plan), workdir)]
    assert sorted(map(len, found)) == [1, 2]  # everything; 2 shots


def test_settings_stand_side_by_side_and_validation_picks(swept):
    _, workdir, _ = swept
    results = read_json(workdir / "results.json")
    found = results["sweep"]
    assert found["rule"] == "information_maximization" and len(found["rows"]) == 3
    dann = [r for r in found["rows"] if r["stage"] == "dann" and "data.shots" not in r["settings"]]
    assert found["best"]["dann"] == max(dann, key=lambda r: r["score_mean"])["method"]
    row = found["rows"][-1]
    assert row["target"]["each"] == row_of(results, row["method"])["accuracies"]
    assert len(row["score"]) == 2
    assert row["score_mean"] == pytest.approx(np.mean(row["score"]), abs=1e-6)  # both are rounded
    page = (workdir / "report.html").read_text()
    assert '<section id="sweep">' in page and "est of dann by information_maximization" in (
        (workdir / "results.md").read_text()
    )


def test_a_setting_is_exported_by_its_name(swept, tmp_path):
    config, workdir, _ = swept
    name = list(parsed(config).settings)[-2]
    export.export(workdir, tmp_path / "out", name, 1)
    row = row_of(read_json(workdir / "results.json"), name)
    source = prepare(parsed(config)).dataset.source("sketch", "test")
    images = [source[i].image for i in range(len(source))]
    hits = load_adapted(tmp_path / "out").predict(images).argmax(axis=1) == source.labels
    assert np.mean(hits) == pytest.approx(row["accuracies"][1], abs=1e-6)


@pytest.mark.slow
def test_targets_are_swept_in_one_program(photos, wee_clip, tmp_path, tmp_path_factory):
    root = tmp_path_factory.mktemp("three") / "photos"
    shutil.copytree(photos, root)
    shutil.copytree(root / "sketch", root / "drawn")
    config = config_of(root, wee_clip, dann=DANN)
    config.data.fractions = (0.4, 0.3, 0.3)
    config.sweep = ({"data.target": ("sketch", "drawn")},)
    found = run(parsed(config), tmp_path / "run", pages=False)
    rows = read_json(tmp_path / "run" / "results.json")["sweep"]["rows"]
    assert [r["target_domain"] for r in rows] == ["sketch", "drawn"]
    alone = separate(config, "dann", rows[1]["settings"])
    one = found.params[rows[1]["method"]]
    two = run(parsed(alone), tmp_path / "alone", pages=False).params["dann"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, two)


def parts_of(config):
    """What a config's run encodes."""
    study = parsed(config)
    return needed_parts(study, open_data(study)[0])


def test_targets_of_methods_are_encoded(photos, wee_clip, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    shutil.copytree(root / "sketch", root / "drawn")
    shutil.copytree(root / "sketch", root / "inked")
    config = config_of(root, wee_clip, dann=DANN | {"data": {"target": "drawn"}}, other=DANN)
    config.data.domains = ("real",)
    needed = parts_of(config)
    assert ("drawn", "train") in needed and ("inked", "train") not in needed
    config.sweep = ({"methods.other.data.target": ("sketch", "inked")},)
    needed = parts_of(config)
    assert {(domain, "train") for domain in ("drawn", "inked", "sketch")} <= set(needed)


def test_settings():
    assert settings(()) == []
    assert len(settings(({"a.b": (1, 2), "c.d": (3, 4)}, {"a.b": 5}))) == 5
