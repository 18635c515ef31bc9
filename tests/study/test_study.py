"""Studies in this process: phases, selection, export, and what is refused before it starts."""

import functools
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from clipjax import load_adapted
from clipjax.configs import common, tables
from clipjax.data.loading.pairing import paired_batches
from clipjax.errors import CheckpointError, ConfigError, DataError
from clipjax.log import read_log
from clipjax.model.hf.load import load_clip
from clipjax.study import Augment, export, prepared, run
from clipjax.study import trainer as train
from clipjax.study import workdir as workdirs
from clipjax.study.encode import encode_texts
from clipjax.study.methods import group_runs
from clipjax.study.plan import prepare
from clipjax.study.restore import restored
from clipjax.study.trainer import Trainer, trainers
from clipjax.train.preemption import Preempted
from tests.conftest import REPO, methods_of, parsed, read_json

TRUNK = {"adapter": (8,), "classifier": (8,), "discriminator": (8,)}
TWO_STAGE = {
    "loss": "dann",
    "heads": TRUNK,
    "phases": {
        "frozen": {"epochs": 2},
        "unfrozen": {"epochs": 3, "freeze": ("clip/text/.*", "clip/logit_scale")},
    },
    "phase_order": ("frozen", "unfrozen"),
}


def config_of(photos, wee_clip, **methods):
    config = common.study()
    config.experiment = "study"
    config.model = str(wee_clip)
    config.data.name, config.data.root = "folder", str(photos)
    config.data.source, config.data.target = "real", "sketch"
    config.seeds, config.epochs, config.save_every, config.batch_size = (0, 1), 3, 1, 4
    config.features.batch_size = 8
    config.stages = tuple(methods)
    for name, method in methods.items():
        config.methods[name] = method
    return config


@pytest.fixture(scope="module")
def two_stage(photos, wee_clip, tmp_path_factory, programs):
    """A finished run of two phases, the second from pixels, for two seeds."""
    workdir = tmp_path_factory.mktemp("two_stage") / "run"
    config = config_of(photos, wee_clip, dann=TWO_STAGE)
    run(parsed(config), workdir, print, programs=programs)
    return config, workdir


def row_of(results, method, domain="sketch"):
    wanted = (method, domain, "test")
    (row,) = [r for r in results["rows"] if (r["method"], r["domain"], r["split"]) == wanted]
    return row


def trained(config, workdir, name="dann", programs=None):
    """A method read back from a workdir, by programs that a run has compiled or by new ones."""
    encoded = encode_texts(prepare(parsed(config)))
    (trainer,) = (t for t in trainers(encoded, workdir, programs) if name in t.names)
    return restored(trainer)[name]


@pytest.mark.slow
def test_each_phase_trains_what_it_frees(two_stage, wee_clip, programs):
    config, workdir = two_stage
    params = trained(config, workdir, programs=programs).params
    before = load_clip(wee_clip)[1]
    for seed in range(2):
        vision = jax.tree.map(lambda x: x[seed], params["clip"]["vision"])  # noqa: B023
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), vision, before["vision"])
        assert all(jax.tree.leaves(moved)) and max(jax.tree.leaves(moved)) < 0.1
    assert "text" not in params["clip"] and "logit_scale" not in params["clip"]


@pytest.mark.slow
def test_a_finished_run_is_read_with_its_parameters(two_stage, capsys):
    config, workdir = two_stage
    found = run(parsed(config), workdir, print)
    assert "this run is finished" in capsys.readouterr().out
    assert found.results == read_json(workdir / "results.json")
    assert found.curves == read_log(workdir / "metrics.jsonl")
    wanted = trained(config, workdir).params
    jax.tree.map(np.testing.assert_array_equal, found.params["dann"], wanted)


def test_the_log_runs_through_the_phases(two_stage):
    _, workdir = two_stage
    records = read_log(workdir / "metrics.jsonl")
    steps = [r for r in records if "evaluation" not in r]
    frozen = [r for r in steps if r["phase"] == "dann/frozen"]
    unfrozen = [r for r in steps if r["phase"] == "dann/unfrozen" and r["seed"] == 0]
    assert [r["epoch"] for r in frozen + unfrozen] == [1, 2, 3, 4, 5]
    lam = [r["lam"][0] for r in frozen] + [r["lam"] for r in unfrozen]
    assert lam == sorted(lam) and lam[-1] > 0.9  # one schedule over the whole run
    assert frozen[-1]["lr"] < 2e-4 < 5e-4 < unfrozen[0]["lr"]  # a cosine of its own each


def test_rules_stand_side_by_side(two_stage):
    config, workdir = two_stage
    results = read_json(workdir / "results.json")
    rules = results["selection_rules"]["dann"]
    assert rules["last"]["epoch"] == [5, 5] and {"source_val", "oracle"} <= set(rules)
    assert rules["last"]["target"] == pytest.approx(row_of(results, "dann")["accuracies"], abs=1e-5)


@pytest.mark.slow
def test_killed_and_told_to_stop_it_ends_with_the_same_bits(two_stage, tmp_path, programs):
    """Killed between two seeds, then SIGTERM in an epoch that reads pixels; then to the end."""
    config, workdir = two_stage
    again = functools.partial(run, pages=False, programs=programs)
    place, seeds, original = tmp_path / "run", [], Trainer.fit_seed

    def killed_late(self, index, seed, *rest):
        if seed == 1:
            raise KeyboardInterrupt
        seeds.append(seed)
        return original(self, index, seed, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "fit_seed", killed_late)
        again(parsed(config), place, print)
    assert seeds == [0]

    def told(*args, first, **options):
        for number, batch in enumerate(paired_batches(*args, first=first, **options), first):
            if number == first + 2:  # it is fetched while the second step runs
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(Preempted, match="of dann/unfrozen, saved") as caught,
    ):
        patch.setattr(train, "paired_batches", told)
        again(parsed(config), place, print)
    assert caught.value.code == 75
    log = read_log(place / "metrics.jsonl")
    frozen = max(r["step"] for r in log if r["phase"] == "dann/frozen")
    folder = place / "checkpoints" / "dann" / "unfrozen" / "seed1"
    assert [int(path.name) for path in folder.iterdir()] == [frozen + 2]
    again(parsed(config), place, print)
    a, b = read_json(workdir / "results.json"), read_json(place / "results.json")
    assert a["rows"] == b["rows"] and a["selection_rules"] == b["selection_rules"]
    both = (trained(config, at, programs=programs).params for at in (workdir, place))
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.slow
def test_the_tuned_encoder_is_exported(two_stage, tmp_path, monkeypatch):
    """On a machine that has neither the run's devices nor its memory."""
    config, workdir = two_stage
    shutil.copytree(workdir, tmp_path / "run")
    larger = config.copy_and_resolve_references()
    larger.mesh.data = 512
    (tmp_path / "run" / "config.json").write_text(workdirs.config_text(parsed(larger)))
    with pytest.raises(ConfigError, match="mesh.data=512"):
        prepare(parsed(larger))
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "device_memory", lambda: 1)
        export.export(tmp_path / "run", tmp_path / "out", "dann", 1)
    model = load_adapted(tmp_path / "out")
    dataset = prepare(parsed(config)).dataset
    source = dataset.source("sketch", "test")
    images = [source[i].image for i in range(len(source))]
    hits = np.mean(model.predict(images).argmax(axis=1) == source.labels)
    row = row_of(read_json(workdir / "results.json"), "dann")
    assert hits == pytest.approx(row["accuracies"][1], abs=1e-6)


@pytest.mark.slow
def test_full_fine_tuning_trains_both_towers_and_exports(photos, wee_clip, tmp_path):
    full = {"loss": "finetune", "heads": {"text": True}, "freeze": (), "epochs": 2}
    config = config_of(photos, wee_clip, full=full)
    config.seeds, config.accumulate, config.remat = (0,), 2, "blocks"
    config.methods.full.augment = {"smallest": 0.5}
    found = run(parsed(config), tmp_path / "run", pages=False)
    params = jax.tree.map(lambda x: x[0], found.params["full"]["clip"])
    before = load_clip(wee_clip)[1]
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), params, before)
    assert all(moved["text"]["block_0"]["fc1"].values()) and moved["logit_scale"]
    export.export(tmp_path / "run", tmp_path / "out", "full")
    tuned = load_clip(tmp_path / "out")[1]
    jax.tree.map(np.testing.assert_array_equal, dict(tuned), dict(params))
    assert load_adapted(tmp_path / "out").classes == ("blue", "green", "red")


@pytest.mark.slow
def test_checkpoints_of_another_run_are_refused_before_anything_is_read(
    two_stage, wee_clip, photos, tmp_path
):
    config = config_of(photos, wee_clip, dann=TWO_STAGE | {"lam_max": 0.5})
    shutil.copytree(two_stage[1] / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="of another run"):
        run(parsed(config), tmp_path / "run", print)
    assert not (tmp_path / "run" / "config.json").exists()
    folder = tmp_path / "run" / "checkpoints"
    (folder / "dann").rename(folder / "2stages")
    with pytest.raises(CheckpointError, match="of another run"):
        workdirs.check_checkpoints(folder, workdirs.name_of(parsed(config)))


@pytest.mark.slow
def test_the_candidates_that_a_rule_needs_are_kept_and_it_picks_of_them(photos, wee_clip, tmp_path):
    head = {"loss": "finetune", "heads": {"classifier": (8,)}, "epochs": 6}
    config = config_of(photos, wee_clip, head=head)
    config.selection, config.optim.lr, config.keep, config.keep_best = "oracle", 0.05, 1, 2
    run(parsed(config), tmp_path / "run", pages=False)
    results = read_json(tmp_path / "run" / "results.json")
    picked = results["selection_rules"]["head"]["oracle"]
    assert results["selection"] == "oracle"  # another rule than the last picks another epoch
    assert row_of(results, "head")["accuracies"] == pytest.approx(picked["target"], abs=1e-5)
    evaluations = [r for r in read_log(tmp_path / "run" / "metrics.jsonl") if "evaluation" in r]
    wanted = {evaluations[-1]["step"]}
    for seed in range(2):
        scores = [(r["evaluation"]["oracle"][seed], r["step"]) for r in evaluations]
        wanted |= {step for _, step in sorted(scores)[-2:]}
    folder = tmp_path / "run" / "checkpoints" / "head"
    assert {int(path.name) for path in folder.iterdir()} == wanted


@pytest.mark.slow
def test_methods_that_differ_in_numbers_train_as_one_program(photos, wee_clip, tmp_path):
    dann = {"loss": "dann", "heads": TRUNK, "epochs": 2}
    slow = dann | {"optim": {"lr": 1e-4, "schedule": "step"}, "lam_max": 0.2, "schedule": "linear"}
    config = config_of(photos, wee_clip, dann=dann, slow=slow)
    plan = prepare(parsed(config))
    assert [t.names for t in trainers(encode_texts(plan), tmp_path)] == [("dann", "slow")]
    together = run(parsed(config), tmp_path / "both", pages=False).params["slow"]
    separate = config_of(photos, wee_clip, slow=slow)
    alone = run(parsed(separate), tmp_path / "alone", pages=False).params["slow"]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, together, alone)
    logs = [read_log(tmp_path / name / "metrics.jsonl") for name in ("both", "alone")]
    mine = [[r for r in log if r["phase"] == "slow"] for log in logs]
    for a, b in zip(*mine, strict=True):
        assert a.keys() == b.keys() and a.get("lr") == b.get("lr")
        if "lam" in a:
            assert a["lam"] == pytest.approx(b["lam"], rel=1e-5)


def test_groups_share_all_but_rates_and_lambdas():
    always = lambda method: True
    built = {t: methods_of(tables.get_config(str(t)), 28) for t in (3, 4, 5)}
    assert group_runs(built[3], always) == [(f"mlp{n}_step", f"mlp{n}_cosine") for n in (2, 3, 5)]
    assert len(group_runs(built[4], always)) == 2  # the losses differ
    assert group_runs(built[5], always) == [("dann_lr1e-2", "dann_lr1e-3", "dann_constant")]
    assert len(group_runs(built[5], lambda method: False)) == 3


@pytest.mark.parametrize(
    "change, word",
    [
        ({"phases": {"one": {"epochs": 0}}, "phase_order": ("one",)}, "phases.one.epochs is 0"),
        ({"phases": {"one": {}}, "phase_order": ("two",)}, "phase_order"),
        ({"lam_max": -0.1}, "must not be negative"),
        ({"domain_weight": -1.0}, "must not be negative"),
        ({"heads": {"adapter": (8,)}}, "heads.discriminator"),
        ({"heads": {"text": True, "classifier": (3,)}}, "text=True"),
        ({"optim": {"rate": 1}}, "rate"),
        ({"augment": {"smalest": 0.5}}, "smalest"),
        ({"augment": {"smallest": 0.0}}, "smallest"),
    ],
)
def test_what_cannot_train_is_refused_by_name(change, word):
    config = config_of("", "tiny", dann={"loss": "dann", "heads": TRUNK} | change)
    with pytest.raises(ConfigError, match=word):
        methods_of(config)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"freeze": ("clip/vision/blok_0",)}, "blok_0.*matches no layer group"),
        ({"freeze": (".*",)}, "leaves nothing to train"),
        ({"heads": TRUNK | {"members": 10**8}}, "members"),
        ({"optim": {"lr_mults": (("clp/.*", 0.1),)}}, "lr_mults pattern 'clp"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_name(photos, wee_clip, change, word):
    config = config_of(photos, wee_clip, dann={"loss": "dann", "heads": TRUNK} | change)
    with pytest.raises(ConfigError, match=word):
        prepare(parsed(config))


@pytest.mark.parametrize(
    "field, value",
    [
        ("selection", "best"),
        ("compute_dtype", "float8"),
        ("accumulate", 3),
        ("keep", 0),
        ("keep_best", 2),  # selection is "last", which ranks nothing
        ("parallel", "xmap"),
        ("profile", "20:10"),
    ],
)
def test_unknown_choices_are_refused(field, value):
    config = config_of("", "tiny", dann={"loss": "dann", "heads": TRUNK})
    config[field] = value
    with pytest.raises(ConfigError, match=field):
        parsed(config)


@pytest.mark.parametrize(
    "field, value",
    [
        ("selection", "proxy_a_distance"),  # the folder has few validation images
        ("profile", "1:2"),  # nothing here trains from pixels
    ],
)
def test_choices_that_this_run_cannot_have_are_refused(photos, wee_clip, field, value):
    config = config_of(photos, wee_clip, dann={"loss": "dann", "heads": TRUNK})
    config[field] = value
    with pytest.raises(ConfigError, match=field):
        prepare(parsed(config))


def test_a_part_without_images_is_refused_before_anything_runs(tmp_path, wee_clip):
    rng = np.random.default_rng(0)
    for place in ("real/red", "real/blue", "sketch/red", "sketch/blue"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for i in range(4):
            picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
            picture.save(folder / f"{i}.png")
    config = config_of(tmp_path, wee_clip, dann={"loss": "dann", "heads": TRUNK})
    config.data.fractions = (0.5, 0.0, 0.5)
    with pytest.raises(DataError, match=r"split 'val' of domain 'real' has no images"):
        prepare(parsed(config))


@pytest.mark.slow
def test_an_idle_domain_loss_is_said(photos, wee_clip, tmp_path, capsys):
    idle = {"loss": "dann", "heads": {"discriminator": (8,), "classifier": (8,)}, "epochs": 1}
    config = config_of(photos, wee_clip, dann=idle)
    run(parsed(config), tmp_path / "run", print, pages=False)
    assert "reversed gradient reaches nothing" in capsys.readouterr().out


def test_an_unfinished_method_has_no_parameters(photos, wee_clip, tmp_path):
    config = config_of(photos, wee_clip, dann={"loss": "dann", "heads": TRUNK})
    with pytest.raises(CheckpointError, match="no checkpoint of 'dann'"):
        trained(config, tmp_path)


def test_the_methods_of_the_docs_can_be_built():
    text = (REPO / "docs/training.md").read_text()
    code = text[text.index("config.methods.two_stage = {") :].split("```")[0]
    config = common.study()
    exec(code, {"config": config})
    (method,) = methods_of(config, 5).values()
    assert [phase.epochs for phase in method.phases] == [6, 14]
    assert method.phases[1].augment == Augment(smallest=0.5)
