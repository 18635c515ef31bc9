"""The report's tables and pairs of domains as configs, and the suite that runs them."""

import shutil

import pytest
from clipjax.configs.recipes import robust

from clipjax import load_adapted
from clipjax.commands.choices import Choices
from clipjax.commands.robust import robust_studies, run_robust
from clipjax.commands.suite import pair_studies, published, run_pairs, table_studies
from clipjax.configs import tables, uda
from clipjax.errors import ConfigError
from clipjax.evaluate.rows import row
from clipjax.study import export
from clipjax.study.epochs import planned_sizes
from clipjax.study.plan import prepare
from tests import forked
from tests.conftest import make_photos, methods_of, read_json
from tests.data import published as published_files


@pytest.mark.parametrize("table", tables.TABLES)
def test_every_row_of_a_table_can_be_built(table):
    config = tables.get_config(str(table))
    built = methods_of(config, 28)
    assert list(built) == list(tables.methods(table))
    assert set(tables.PUBLISHED[table]) <= {"zero_shot", *built}


def test_rows_change_what_the_report_changed():
    built = methods_of(tables.get_config("3"), 28)
    assert [len(m.heads.classifier) for m in built.values()] == [1, 1, 2, 2, 4, 4]
    assert {m.phases[0].optim.schedule for m in built.values()} == {"step", "cosine"}
    five = methods_of(tables.get_config("5"), 28)
    assert [m.phases[0].optim.lr for m in five.values()] == [1e-2, 1e-3, 1e-3]
    six = methods_of(tables.get_config("6"), 28)
    assert [[p.epochs for p in m.phases] for m in six.values()] == [[3, 5]] * 3
    assert [m.phases[1].options["domain_weight"] for m in six.values()] == [0.0, 1.0, 1.0]
    assert [m.phases[1].options["lam_max"] for m in six.values()] == [0.3, 0.3, 0.6]


def test_domainnet_gets_the_reports_domains_and_lengths():
    found = table_studies(list("123456"), Choices("domainnet", "/data/domainnet", model="a/b"))
    for study in found.values():
        data = study.data
        assert (data.source, data.target) == ("real", "clipart")
        assert (data.name, data.root, study.encoder.model) == (
            "domainnet",
            "/data/domainnet",
            "a/b",
        )
    assert {phase.optim.lr for method in found["2"].trained for phase in method.phases} == {1e-3}
    assert {method.epochs for method in found["6"].trained} == {20}
    assert {method.epochs for method in found["5"].trained} == {10}
    prepared = table_studies(["5"], Choices("tfds:domainnet", model="a/b"))["5"]
    assert (prepared.data.name, prepared.data.source) == ("tfds:domainnet", "real")
    short = table_studies(["6"], Choices("domainnet", "/data", smoke=True, model="a/b"))["6"]
    assert {method.epochs for method in short.trained} == {2}


def test_published_numbers_stand_beside_ours_where_the_source_is_the_reports():
    rows = [
        row(
            "ensemble", "real", "test", 9, {"accuracy": [x], "macro_accuracy": [x]}, variant=variant
        )
        for variant, x in {"last": 0.815, "average": 0.1}.items()
    ]
    results = {"data": {"source": "real"}, "rows": rows}
    assert "| ensemble | real | 82 | 81.5 |" in published("4", results)
    assert published("4", results | {"data": {"source": "sketch"}}) == ""


def suite(*arguments):
    return forked.run(["-m", "experiments.suite", *arguments], CI="true")


@pytest.mark.slow
def test_unknown_tables_and_choices_are_refused(tmp_path):
    done = suite(f"--workdir={tmp_path}", "--tables=7")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "1, 2, 3, 4, 5, 6" in done.stderr
    for choices, word in (
        (Choices("domainnet"), "--data_root"),
        (
            Choices("images"),
            "known: auto, emoji, emoji_regrouped, folder, lists, domainnet, parquet",
        ),
        (Choices(root="/photos"), "no model named: the embedded one knows 64 px drawings only"),
    ):
        with pytest.raises(ConfigError, match=word):
            table_studies(["1"], choices)


@pytest.mark.slow
def test_the_suite_runs_and_resumes(tmp_path, photos, wee_clip):
    data = (f"--data_root={photos}", "--source=real", "--target=sketch", f"--model={wee_clip}")
    options = (f"--workdir={tmp_path}", "--tables=1,4", "--smoke", *data)
    done = suite(*options)
    assert done.returncode == 0, done.stderr
    rows = read_json(tmp_path / "table1" / "results.json")["rows"]
    whole = {(r["domain"], r["n"]) for r in rows if r["split"] == "all"}
    assert whole == {("real", 18), ("sketch", 18)}
    rows = read_json(tmp_path / "table4" / "results.json")["rows"]
    ensembles = [r for r in rows if r["method"].startswith("ensemble")]
    assert all(len(r["members"][0]) == 3 and len(r["disagreement"]) == 1 for r in ensembles)
    page = (tmp_path / "suite.md").read_text()
    assert "whole domains" in page and "3 members" in page
    links = (tmp_path / "suite.html").read_text()
    assert 'href="table1/report.html"' in links and 'href="table4/report.html"' in links
    assert (tmp_path / "table4" / "report.html").exists()
    (tmp_path / "table4" / "results.json").unlink()
    again = suite(*options)
    assert again.returncode == 0 and "finished" in again.stdout
    assert (tmp_path / "suite.md").read_text() == page


@pytest.fixture
def few_methods(monkeypatch):
    """configs/uda.py with a closed form, a trained method and the upper bound."""
    whole = uda.get_config

    def get_config(arg=None):
        config = whole(arg)
        config.stages = ("blend", "shot", "upper_bound")
        return config

    monkeypatch.setattr(uda, "get_config", get_config)


@pytest.mark.slow
def test_pairs_of_any_folders_run_resume_and_export(tmp_path, wee_clip, few_methods, capsys):
    root, workdir = tmp_path / "data", tmp_path / "all pairs"
    make_photos(root)
    (root / "real").rename(root / "my photos")
    (root / "sketch").rename(root / "line+art")
    studies = pair_studies(Choices("folder", str(root), model=str(wee_clip), smoke=True))
    assert list(studies) == [("line+art", "my photos"), ("my photos", "line+art")]
    run_pairs(workdir, studies)
    assert capsys.readouterr().out.count("note: fewer than 5 images of 3 of 3 classes") == 1
    page = (workdir / "uda.md").read_text()
    assert "| upper_bound (target labels) |" in page and page.count("| blend |") == 1
    assert "line+art to my photos" in (workdir / "uda.html").read_text()
    places = [place for place in workdir.iterdir() if place.is_dir()]
    assert all(read_json(place / "results.json")["choice"]["pick"] for place in places)
    # Killed in the second pair: the first is read, the other goes on.
    (places[1] / "results.json").unlink()
    run_pairs(workdir, studies)
    assert (workdir / "uda.md").read_text() == page
    shutil.rmtree(root)  # nothing of the data is needed any more
    export.export(places[0], tmp_path / "out", "blend", 0)
    assert load_adapted(tmp_path / "out").classes == ("blue", "green", "red")


@pytest.mark.slow
def test_pairs_that_cannot_be_are_refused(tmp_path, photos):
    done = suite(f"--workdir={tmp_path}", "--study=uda", f"--data_root={photos}", "--tables=3")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--tables are of --study=report" in done.stderr
    given = Choices(root=str(photos), model="tiny")
    for choices, word in (
        (given._replace(source="photo"), "--source=photo is no domain; known: real, sketch"),
        (given._replace(source="real", target="real"), "are one domain"),
        (Choices("folder"), "--data_root"),
    ):
        with pytest.raises(ConfigError, match=word):
            pair_studies(choices)
    with pytest.raises(ConfigError, match="--methods=mdc is none; known: prompts_chosen, .*mcd"):
        pair_studies(given, ["mdc"])
    assert {study.stages for study in pair_studies(given, ["mcd"]).values()} == {("mcd",)}


def test_shares_of_the_data_train_the_same_methods_for_as_many_steps():
    studies = robust_studies(Choices())
    assert len(studies) == 32 and list(studies)[:2] == [(0.0, 0, 0), (0.03, 0, 0)]
    with_data = {cell: study for cell, study in studies.items() if cell[0]}
    assert {(study.data.epoch, study.training.batch_size) for study in with_data.values()} == {
        ("2", 32)
    }
    for (share, subset, seed), study in with_data.items():
        data = study.data
        assert (data.fraction, data.subset_seed, study.training.seeds) == (share, subset, (seed,))
        assert (data.source, len(data.domains), len(study.trained)) == ("render", 6, 9)
    assert [m.name for m in studies[0.0, 0, 1].trained] == ["random_head"]
    assert sorted(cell[1:] for cell in studies if cell[0] == 1) == [(0, 0), (0, 1)]


def test_a_smoke_run_has_every_way_of_training_on_half_of_the_embedded_classes():
    studies = robust_studies(Choices(smoke=True))
    assert list(studies) == [(0.0, 0, 0), (0.1, 0, 0)]
    study = studies[0.1, 0, 0]
    assert tuple(m.name for m in study.trained) == tuple(robust.methods())
    assert (study.data.classes, len(study.data.domains)) == ("new", 2)
    towers = [m.phases[0].freeze for m in study.trained if m.stage in robust.FREE]
    assert towers == [robust.BELOW] * 3


def test_each_way_of_training_is_what_its_name_says():
    built = methods_of(robust.get_config(), 28)
    ce, flyp, vision = (built[name] for name in ("ce", "flyp", "vision_only"))
    assert ce.phases[0].freeze == flyp.phases[0].freeze == vision.phases[0].freeze == ()
    assert ce.phases[0].optim.schedule == "constant" and ce.config.wise == (0.5,)
    assert 2 * ce.phases[0].average.last == ce.config.epochs  # SWA: the last half's epoch ends
    assert vision.heads.start == "random" and vision.kind.towers == ("image",)
    assert len({m.heads.start for name, m in built.items() if name.startswith("linear_p")}) == 2


@pytest.mark.parametrize(
    "choices, words",
    [
        ({"target": "flat"}, "every domain but the source as OOD; leave --target=flat out"),
        ({"source": "photos"}, "--source=photos is no domain; known: render"),
        ({"data": "imges"}, "--data=imges is unknown"),
    ],
)
def test_what_shares_of_the_data_do_not_take_is_refused(choices, words):
    with pytest.raises(ConfigError, match=words):
        robust_studies(Choices(**choices))


def test_shares_of_other_data_need_a_source_and_a_model(photos):
    with pytest.raises(ConfigError, match="no domain is called id.*--source: real, sketch"):
        robust_studies(Choices(root=str(photos)))
    with pytest.raises(ConfigError, match="no model named"):
        robust_studies(Choices(root=str(photos), source="real"))


def test_shares_of_wilds_train_on_id_and_are_measured_on_ood(tmp_path, wee_clip):
    root = published_files.fmow(tmp_path, extra=40)
    study = robust_studies(Choices("wilds_fmow", str(root), model=str(wee_clip)))[0.5, 1, 1]
    assert (study.data.source, study.data.domains) == ("id", ("id", "ood"))
    plan = prepare(study)  # refuses what could not run
    assert planned_sizes(study.trained[0].data, plan.dataset)[0] < 42
    # The paper's lengths and rates, where the embedded data have 20 steps.
    towers = [plan.methods[m.name] for m in study.trained if m.stage in robust.FREE]
    free = [(m.config.stage, m.phases[0].epochs, m.phases[0].optim.lr) for m in towers]
    assert free == [(name, 20, rate) for name in robust.FREE for rate in (1e-5, 1e-4)]
    assert {m.phases[0].average.last for m in towers if m.config.stage == "ce"} == {10}
    assert (study.training.batch_size, study.data.epoch) == (128, "source")


def test_a_domain_of_fewer_classes_is_ood(photos, tmp_path, wee_clip):
    shutil.copytree(photos, tmp_path / "data")
    shutil.rmtree(sorted((tmp_path / "data" / "sketch").iterdir())[0])
    choices = Choices(root=str(tmp_path / "data"), source="real", model=str(wee_clip))
    study = robust_studies(choices)[1.0, 0, 0]
    assert study.data.target == "real"
    notes = prepare(study, training=False).notes
    assert any(note.startswith("sketch is scored among its own") for note in notes)


def test_domains_of_test_images_alone_are_ood_whole(tmp_path, wee_clip):
    root = published_files.imagenet(tmp_path)
    choices = Choices("imagenet", str(root), "imagenet", model=str(wee_clip))
    study = robust_studies(choices)[1.0, 0, 0]
    assert len(study.data.domains) == 5
    plan = prepare(study)  # a target of test images alone would be dealt into train, val and test
    assert [len(plan.dataset.source(d, "test")) for d in study.data.domains] == [12, 12, 12, 3, 3]
    assert any(note.startswith("imagenet is source and target") for note in plan.notes)
    assert "imagenet_a is scored among its own 3 classes" in plan.notes


@pytest.fixture
def two_ways(monkeypatch):
    """configs/recipes/robust.py with a head and CE alone."""
    whole = robust.get_config

    def get_config(arg=None):
        config = whole(arg)
        config.stages = ("linear_probe", "ce")
        return config

    monkeypatch.setattr(robust, "get_config", get_config)


@pytest.mark.slow
def test_shares_of_the_data_run_and_resume(tmp_path, wee_clip, two_ways, capsys):
    root, workdir = tmp_path / "data", tmp_path / "shares"
    make_photos(root)
    (root / "real").rename(root / "id")
    (root / "sketch").rename(root / "ood")
    studies = robust_studies(Choices(root=str(root), model=str(wee_clip), smoke=True))
    assert list(studies) == [(0.0, 0, 0), (0.1, 0, 0)]
    assert studies[0.1, 0, 0].data.classes == "closed"  # of data of one's own, all
    run_robust(workdir, studies)
    said, page = capsys.readouterr().out, (workdir / "robust.md").read_text()
    assert "2/2 10 % of the data, subset 0, seed 0 (ID / OOD): zero-shot" in said
    assert "| CE + WiSE 0.5 |" in page and "OOD: the mean over ood" in page
    files = {path.name for path in workdir.iterdir()}
    assert {"robust_id.svg", "robust_ood.svg", "robust_shift.svg", "robust.html"} <= files
    (workdir / "data10-subset0-seed0" / "results.json").unlink()
    run_robust(workdir, studies)  # what was killed goes on, and the other run is read
    cut = lambda text: text[: text.index(" minutes of work") - 3]
    assert cut((workdir / "robust.md").read_text()) == cut(page)
