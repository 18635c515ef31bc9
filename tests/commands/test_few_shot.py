"""`clipjax suite --study=few_shot`: what runs, what is refused, the same subsets, going on."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext as skip

import pytest

from clipjax.commands.choices import Choices
from clipjax.commands.few_shot import Asked, few_shot_studies
from clipjax.commands.few_shot_run import run_few_shot
from clipjax.configs import few_shot
from clipjax.data.readers import coop
from clipjax.errors import ConfigError
from clipjax.study import parse, run
from clipjax.study.plan import open_model, prepare
from clipjax.study.prepared import Opened, cached_phases
from tests.conftest import REPO, make_photos, read_json
from tests.data import published as fakes


def test_a_row_is_a_method_and_a_cell_a_subset():
    found = few_shot_studies(Choices(), Asked(methods=["coop", "flyp"]))
    assert [cell.method for cell in found] == 18 * ["coop"] + 12 * ["flyp"]
    shots = {(c.classes, c.shots) for c in found if c.method == "coop"}
    assert shots == {("all", k) for k in (1, 2, 4, 8, 16)} | {("base", 16)}
    assert {c.shots for c in found if c.method == "flyp"} == {1, 4, 16}
    for cell, study in found.items():
        data = study.data
        assert (data.shots, data.shots_rule, data.subset_seed) == (cell.shots, "coop", cell.seed)
        assert study.training.seeds == (cell.seed,) and data.source == "render"
        wide = cell.classes == "all" and cell.shots == 16
        assert len(data.domains) == (6 if wide else 1)
        assert data.classes == ("base" if cell.classes == "base" else "closed")


def test_a_smoke_run_has_every_protocol_and_the_slow_methods_it_names():
    cells = list(few_shot_studies(Choices(smoke=True)))
    left_out = set(few_shot.methods()) - {cell.method for cell in cells}
    assert left_out == set(few_shot.slow_methods()) - set(few_shot.SMOKE_SLOW) and left_out
    ways = {cell.method: cell.classes for cell in cells}
    assert ways["logistic"] == "all" and ways["coop"] == "base" and len(ways) == len(cells)
    named = few_shot_studies(Choices(smoke=True), Asked(methods=["lora"]))
    assert [(cell.method, cell.classes) for cell in named] == [("lora", "base")]


def test_protocols_share_runs():
    runs = lambda *names: {
        (c.classes, c.shots)
        for c in few_shot_studies(Choices(), Asked(names, methods=["logistic"]))
    }
    assert runs("dg") == {("all", 16)} and runs("bng") == {("base", 16)} == runs("cdg")
    assert runs("fsl") == {("all", k) for k in (1, 2, 4, 8, 16)} == runs("fsl", "dg")


@pytest.mark.slow
def test_methods_are_what_their_places_in_the_config_say():
    """The slow ones encode in every step; heads that hold the classes are asked for no new ones."""
    asked = Asked(["bng", "cdg"], methods=list(few_shot.methods()))
    studies = few_shot_studies(Choices(smoke=True), asked)
    assert [cell.method for cell in studies] == list(few_shot.methods())
    model = open_model(next(iter(studies.values())))
    for cell, study in studies.items():
        fixed = cell.method in few_shot.FIXED
        if fixed:
            assert not study.evaluations
            study = dataclasses.replace(study, evaluations={"new": {"classes": "new"}})
        with pytest.raises(ConfigError, match="cannot answer evaluations.new") if fixed else skip():
            plan = prepare(study, training=False, opened=Opened(None, model))
        if fixed:
            continue
        assert list(study.evaluations) == ["new", "other_base", "other_new"]
        assert [len(other.class_names) for other in plan.others.values()] == [14, 12, 12]
        if cell.method != "cocoop":  # its texts are encoded for each image
            slow = not all(cached_phases(plan, plan.methods[cell.method]))
            assert slow == (cell.method in few_shot.slow_methods()), cell


def test_coops_datasets_lie_side_by_side(tmp_path, wee_clip):
    """Those in folders, and ImageNet with its variants: other domains, and what cdg tests on."""
    for name in ("Caltech101", "EuroSAT"):
        fakes.coop(tmp_path / name.lower(), name, coop.FOLDERS[name], classes=4)
    fakes.imagenet(tmp_path)
    given = Choices("coop", str(tmp_path), model=str(wee_clip))
    studies = few_shot_studies(given, Asked(shots=["1"], methods=["coop", "logistic"]))
    of = lambda data, classes: next(
        study for cell, study in studies.items() if cell[:3] == ("coop", data, classes)
    )
    assert {cell.data for cell in studies} == {"caltech101", "eurosat", "imagenet"}
    assert of("eurosat", "all").data.domains == ("eurosat",)
    assert len(of("imagenet", "all").data.domains) == 5
    prepare(of("imagenet", "all"), training=False)
    far = of("eurosat", "base").evaluations["other_new"]
    assert far == {"classes": "new", "name": "imagenet", "root": str(tmp_path)}
    assert list(of("imagenet", "base").evaluations) == ["new"]
    plan = prepare(of("eurosat", "base"), training=False)
    assert [len(p.class_names) for p in plan.others.values()][0] == 2
    one = given._replace(root=str(tmp_path / "eurosat"))  # a single dataset, without ImageNet
    assert {cell.data for cell in few_shot_studies(one, Asked(shots=["1"]))} == {"eurosat"}
    for name, words in (
        ("dg", "the protocol dg tests on other"),
        ("cdg", "the protocol cdg tests"),
    ):
        with pytest.raises(ConfigError, match=words):
            few_shot_studies(one, Asked([name], ["1"]))
    with pytest.raises(ConfigError, match="holds no folder with one of CoOp's datasets"):
        few_shot_studies(given._replace(root=str(tmp_path / "eurosat" / "2750")))


@pytest.mark.slow
def test_an_evaluation_of_another_dataset_is_that_dataset(four_classes, tmp_path, wee_clip):
    """Zero-shot on the base half of other data: the same as in a run on these data themselves."""
    shutil.copytree(four_classes, tmp_path / "far")
    for domain in ("real", "sketch"):
        for old, new in (("blue", "sky"), ("green", "grass"), ("red", "rose")):
            (tmp_path / "far" / domain / old).rename(tmp_path / "far" / domain / new)
        shutil.rmtree(tmp_path / "far" / domain / "yellow")
    far = {"name": "folder", "root": str(tmp_path / "far"), "classes": "base"}
    own = {"name": "folder", "source": "real", "target": "sketch"}
    one = {"model": str(wee_clip), "data": own | {"root": str(four_classes)}}
    here = run(parse(one | {"evaluations": {"far": far}}), tmp_path / "one")
    there = run(parse(one | {"data": own | far}), tmp_path / "two")
    told = lambda found, classes: {
        row["domain"]: (row["n"], row["accuracies"])
        for row in found.rows
        if (row["classes"], row["split"]) == (classes, "test")
    }
    assert told(here, "far") == told(there, "all") and len(told(here, "far")) == 2
    with pytest.raises(ConfigError, match="evaluations.new needs another name"):
        parse(one | {"evaluations": {"new": far}})


@pytest.mark.parametrize(
    "choices, asked, words",
    [
        ({"target": "flat"}, {}, "leave --target=flat out"),
        ({"source": "photos"}, {}, "--source=photos is no domain; known: render"),
        ({}, {"protocols": ["fsl", "loo"]}, "--protocols=loo is none; known: fsl, bng, dg, cdg"),
        ({}, {"methods": ["clip"]}, "--methods=clip is none; known: linear_probe"),
        ({}, {"shots": ["0"]}, "--shots=0: give numbers"),
        ({}, {"shots": ["many"]}, "--shots=many: give numbers"),
        ({}, {"shots": ["50"]}, "--shots=50 is more than any class of emoji/render has.*49"),
        ({"data": "coop"}, {}, "--data=coop needs --data_root"),
    ],
)
def test_what_the_study_does_not_take_is_refused(choices, asked, words):
    with pytest.raises(ConfigError, match=words):
        few_shot_studies(Choices(**choices), Asked(**asked))


def test_data_that_a_protocol_cannot_be_run_on_are_refused(tmp_path, wee_clip):
    make_photos(tmp_path / "three")
    given = Choices("folder", str(tmp_path / "three"), model=str(wee_clip))
    with pytest.raises(ConfigError, match="--source is not named; the domains are real, sketch"):
        few_shot_studies(given)
    given = given._replace(source="real")
    with pytest.raises(ConfigError, match="real has 3 of them to train on; bng needs four classes"):
        few_shot_studies(given, Asked(["bng"], ["1"]))
    for name in ("green", "red"):  # one class
        for domain in ("real", "sketch"):
            shutil.rmtree(tmp_path / "three" / domain / name)
    with pytest.raises(ConfigError, match="two are needed|at least two"):
        few_shot_studies(given, Asked(["fsl"], ["1"]))


@pytest.mark.slow
def test_flags_of_it_belong_to_no_other_study(tmp_path):
    words = [sys.executable, "-m", "clipjax", "suite", f"--workdir={tmp_path}", "--shots=1"]
    done = subprocess.run(words, cwd=REPO, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--shots are of --study=few_shot; leave them out" in done.stderr


@pytest.fixture(scope="module")
def four_classes(tmp_path_factory):
    """Two domains of four classes, six images each."""
    root = make_photos(tmp_path_factory.mktemp("four") / "data")
    for domain in ("real", "sketch"):
        shutil.copytree(root / domain / "red", root / domain / "yellow")
    return root


@pytest.mark.slow
def test_it_runs_goes_on_and_writes_its_pages(tmp_path, four_classes, wee_clip, capsys):
    given = Choices("folder", str(four_classes), "real", model=str(wee_clip), smoke=True)
    studies = few_shot_studies(given, Asked(methods=["prototypes", "gda_few_shot", "finetune"]))
    assert [cell.classes for cell in studies] == ["all", "base", "base"]
    run_few_shot(tmp_path, studies)
    said = capsys.readouterr().out
    assert "3/3 finetune, data, base classes, 1 shots, seed 1: zero_shot base" in said
    text = (tmp_path / "few_shot.md").read_text().partition("## What the paper")[0]
    of = {"| zero_shot |": 4, "| prototypes |": 3, "| gda_few_shot |": 2}
    of |= {"| finetune |": 2, "| wise_ft |": 2}
    for row, count in of.items():  # few-shot, halves, other domains, cost
        assert text.count(row) == count, row
    assert "sketch" in text and "Images a class: with 1 " in text
    assert "<svg" in (tmp_path / "few_shot.html").read_text()
    # All methods have the same images, and a base class those that it has among all.
    drawn = [json.loads(file.read_text()) for file in tmp_path.rglob("images.json")]
    assert len({one["real/train"] for one in drawn}) == 2  # of all classes, of the base ones
    # Killed in the last method: the others are read, it goes on.
    places = [tmp_path / c.method / f"data-{c.classes}-1shots-seed1" for c in studies]
    first, last = (place / "results.json" for place in (places[0], places[-1]))
    before = first.read_bytes(), read_json(last)["rows"]
    last.unlink()
    run_few_shot(tmp_path, studies)
    assert (first.read_bytes(), read_json(last)["rows"]) == before
