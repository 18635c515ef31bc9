"""Typed configs: what is parsed, what is refused and how, and a study that Python makes."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from clipjax.configs import (
    common,
    dann,
    dann_two_stage,
    finetune,
    pretrain,
    sweep,
    tables,
    zero_shot,
)
from clipjax.data.classes import HOW
from clipjax.data.features.encode import DTYPES
from clipjax.data.images.decode import DECODERS
from clipjax.errors import ConfigError
from clipjax.evaluate.select import ALIASES, RULES
from clipjax.model.transformer import REMAT
from clipjax.study import Data, Encoder, Features, Pretraining, Study, Training, flat, parse, run
from clipjax.study.defaults import settled
from clipjax.study.diffusion_config import DiffusionBackbone
from clipjax.study.fields import meanings
from clipjax.study.training import Augment, Average, Episodes
from clipjax.study.workdir import config_text, name_of
from clipjax.train.distributed.program import WAYS
from tests.conftest import REPO, parsed

SHIPPED = [dann, dann_two_stage, finetune, pretrain, sweep, zero_shot]
HEAD = {"loss": "finetune", "heads": {"classifier": (8,)}}


def configs():
    yield from (config.get_config(arg) for config in SHIPPED for arg in (None, "smoke"))
    yield from (tables.get_config(str(table)) for table in tables.TABLES)


def test_a_config_keeps_its_identity():
    for config in configs():
        before = json.loads(config.to_json_best_effort())
        if "stages" in before:  # of the embedded data
            before |= {"model": "tiny", "prompts": before["prompts"] or "drawings"}
            before["data"] |= {"name": "emoji", "source": "render", "target": "stencil"}
        text = json.dumps(before, indent=2, sort_keys=True) + "\n"
        assert config_text(parsed(config)) == text
        assert parse(json.loads(text)) == parsed(config)  # as exports read it
    assert name_of(parsed(dann.get_config())) == "dann-940f6649"


def test_defaults_are_those_of_the_dataclasses():
    assert common.study().to_dict() == flat(Study())
    assert pretrain.get_config().to_dict() == flat(Pretraining())
    assert parse({}) == settled(Study()) and parse({"experiment": "pretrain"}) == Pretraining()


def test_every_field_has_a_meaning():
    for kind in (Study, Pretraining, Augment, Average, Episodes):
        found = meanings(kind)
        assert {name: told for name, told in found.items() if not told} == {}
    assert meanings(Study)["optim.lr"] == "learning rate, at its peak"


def known(cls, name):
    (field,) = (each for each in dataclasses.fields(cls) if each.name == name)
    return set(field.metadata["known"])


def test_choices_are_those_of_what_reads_them():
    assert known(Training, "selection") == {*RULES, *ALIASES}
    assert known(Encoder, "remat") == known(DiffusionBackbone, "remat") == set(REMAT)
    assert known(Features, "dtype") == set(DTYPES)
    assert known(Data, "decoder") == set(DECODERS)
    assert known(Data, "classes") == set(HOW)
    assert parsed(dann.get_config()).devices.parallel in WAYS and len(WAYS) == 2


@pytest.mark.parametrize(
    "given, words",
    [
        ({"data": {"sorce": "flat"}}, "no field data.sorce; .*Did you mean data.source"),
        ({"lr": 1.0}, "no field lr; .*Did you mean optim.lr"),
        ({"optim": {"lr": "1e-3"}}, "optim.lr is '1e-3'; give a finite number, at least 0"),
        (
            {"optim": {"name": "adamm"}},
            "optim.name is 'adamm'; .*Did you mean adam",
        ),
        ({"optim": {"min_lr": 1e-5, "schedule": "slanted"}}, "min_lr=1e-05 has no effect with sch"),
        ({"optim": {"min_lr": 0.5}}, "optim.min_lr=0.5 is above lr=0.001; give a smaller one"),
        (
            {"optim": {"warmup": 0.1, "warmup_kind": "constant"}},
            "optim.warmup_kind=constant stays at warmup_from, which is 0",
        ),
        (
            {"optim": {"warmup_kind": "cosine", "warmup_from": 1e-5}},
            "optim.warmup_kind=cosine says how a warm-up goes, and warmup is 0",
        ),
        ({"optim": {"layer_decay": 0.0}}, "optim.layer_decay is 0.0; give a share above 0"),
        ({"optim": {"b1": 1.0}}, "optim.b1 is 1.0; give at least 0 and less than 1"),
        ({"epochs": True}, "epochs is True; give a whole number, at least 1"),
        ({"epochs": 2.0}, "epochs is 2.0; give a whole number"),
        ({"epochs": None}, "epochs is None"),
        ({"seeds": 0}, "seeds is 0; give a tuple of whole numbers"),
        ({"stages": "dann"}, "stages is 'dann'; give a tuple of texts"),
        ({"freeze": "clip/.*"}, "freeze is 'clip/..'; give a tuple of regular expressions"),
        ({"data": {"balanced": 1}}, "data.balanced is 1; give True or False"),
        ({"data": {"source": 3}}, "data.source is 3; give the name of a domain, or a tuple"),
        ({"data": {"shots": 2, "fraction": 0.5}}, "data.shots=2 and data.fraction=0.5 both choose"),
        ({"data": "emoji"}, "data is 'emoji'; give a dict of its fields"),
        ({"mesh": {"fsdp": 0}}, "mesh.fsdp is 0; give a whole number, at least 1"),
        ({"methods": 3}, "methods is 3; give a dict"),
        ({"sweep": "optim.lr"}, "sweep is 'optim.lr'; give a tuple of grids"),
        ({"stages": ("head",), "methods": {"haed": HEAD}}, "stages names 'head'.*mean haed"),
        (
            {"stages": ("head",), "methods": {"head": HEAD | {"optim": {"lrr": 1}}}},
            "optim.lrr",
        ),
        ({"evaluations": {"new": "new"}}, "evaluations.new is 'new'; give a dict, as"),
        ({"evaluations": {"new": {"classes": "old"}}}, "evaluations.new.classes is 'old'; known"),
        ({"evaluations": {"x": {"classes": "all"}}}, "evaluations.x has the classes of the run it"),
        (
            {"data": {"classes": "base"}, "evaluations": {"base": {"classes": "new"}}},
            "evaluations.base needs another name: 'base' means other classes",
        ),
        ({"experiment": ""}, "experiment is ''"),
        ({"experiment": "pretrain", "steps": 0}, "steps is 0; give a whole number, at least 1"),
        ({"experiment": "pretrain", "epochs": 1}, "no field epochs"),
        ({"experiment": "pretrain", "seeds": (0, 0)}, "seeds is \\(0, 0\\)"),
        (3, "the config is 3; give a mapping"),
        ({3: 1}, "the config has the key 3; names of fields are texts"),
        ({"methods": {"a": {"heads": {1: 2}}}}, "methods.a.heads has the key 1"),
        ({"methods": {"a": {"lam_max": object()}}}, "methods.a.lam_max has <object"),
        ({"sweep": ({"optim.lr": {1, 2}},)}, "sweep.optim.lr has {1, 2}; give a text, a number"),
    ],
)
def test_what_is_wrong_is_named_as_on_the_command_line(given, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse(given)
    assert len(str(caught.value).splitlines()) == 1


def test_what_python_makes_is_checked_too():
    for wrong, words in (
        (Study(training=Training(seeds=())), "seeds is"),
        (Study(data={"source": "flat"}), "data is .*; give a Data"),
        ({"experiment": "dann"}, "give a Study"),
        (Study(data=Data(source=("flat", "flat"))), "name each once"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(wrong)


def test_numbers_of_numpy_are_numbers():
    given = {"seeds": list(np.arange(2)), "sweep": ({"optim.lr": tuple(np.float32([0.5, 1]))},)}
    study = parse(given)
    assert study == parse({"seeds": (0, 1), "sweep": ({"optim.lr": (0.5, 1.0)},)})
    assert json.loads(config_text(study))["seeds"] == [0, 1]


def test_a_source_may_be_several_domains():
    assert parse({"data": {"source": ["flat", "clipart"]}}).data.sources == ("flat", "clipart")
    assert parse({"data": {"source": ("flat",)}}) == parse({"data": {"source": "flat"}})


def test_a_method_has_all_of_its_data_and_its_phases():
    entry = HEAD | {
        "data": {"shots": 4},
        "optim": {"lr": 1.0},
        "phases": {"a": {"optim": {"warmup": 0.5}}, "b": {"augment": {}, "epochs": 7}},
        "phase_order": ("b", "a"),
    }
    study = parse({"stages": ("head",), "methods": {"head": entry}, "epochs": 3})
    (method,) = study.trained
    assert method.data == dataclasses.replace(study.data, shots=4)
    assert [phase.name for phase in method.phases] == ["head/b", "head/a"]
    assert study.method_of == {"head/b": "head", "head/a": "head"}
    b, a = method.phases
    assert (a.optim.lr, a.optim.warmup, b.optim.warmup) == (1.0, 0.5, 0.0)
    assert (a.epochs, b.epochs, a.augment, b.augment) == (3, 7, None, Augment())


def test_configs_need_no_jax():
    code = "import sys; from clipjax.configs import dann; from clipjax.study import parse; "
    code += "parse(dann.get_config().to_dict()); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


def test_nothing_below_the_door_knows_config_dicts():
    for file in (REPO / "clipjax").rglob("*.py"):
        door = file.parent == REPO / "clipjax" / "commands"
        assert door or "ml_collections" not in file.read_text().replace("knows ml_coll", ""), file


@pytest.mark.slow
def test_a_study_from_python_leaves_no_files(tmp_path, monkeypatch, photos, wee_clip):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    study = Study(
        encoder=Encoder(model=str(wee_clip)),
        data=Data(root=str(photos), source="real", target="sketch", domains=("sketch",)),
        training=Training(seeds=(0,), epochs=1),
        stages=("head",),
        methods={"head": HEAD},
    )
    found = run(study)
    assert [row["method"] for row in found.rows].count("head") == 4  # test, val; two domains
    assert {record["phase"] for record in found.curves} == {"head"}
    assert found.params["head"]["classifier"]["layer_1"]["bias"].shape == (1, 3)
    assert found.results["seeds"] == [0] and found.workdir is None
    assert [p.name for p in tmp_path.rglob("*")] == ["tmp"]
