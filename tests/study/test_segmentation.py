"""Segmentation runs: what they write, going on after a kill, what is refused."""

import re

import numpy as np
import pytest

from clipjax.commands.configfile import config_complaint
from clipjax.configs import domino
from clipjax.errors import ConfigError
from clipjax.log import read_log
from clipjax.study import parse, run, segmentation_trainer
from clipjax.study.segmentation_plan import prepare
from clipjax.train.preemption import Preempted
from tests.conftest import read_json

SMALL = {
    "experiment": "segmentation",
    "seeds": (0, 1),
    "data": {"train": 20, "test": 6},
    "epochs": 4,
    "save_every": 2,
    "batch_size": 8,
    "width": 8,
    "overlays": 1,
    "methods": {
        "plain": {"stats": "batch"},
        "shuffled": {"norm": "domino", "control": "shuffled", "scale": 0.0, "stats": "batch"},
    },
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run: its folder and what it said."""
    out, said = tmp_path_factory.mktemp("segmentation") / "run", []
    run(parse(SMALL), out, said.append)
    return out, said


@pytest.mark.slow
def test_a_run_measures_every_method_in_every_condition(ran):
    out, said = ran
    found = read_json(out / "segmentation.json")
    assert list(found["methods"]) == list(SMALL["methods"])
    assert found["conditions"] == ["clear", "fog", "night", "rain", "snow"]
    for row in found["methods"].values():
        for condition in found["conditions"]:
            assert len(row["miou"][condition]) == 2
            for iou, miou in zip(row["iou"][condition], row["miou"][condition], strict=True):
                assert np.nanmean(np.array(iou, float)) == pytest.approx(miou)
    against = {name: row["against"] for name, row in found["methods"].items()}
    assert against == {"plain": "", "shuffled": "plain"}
    losses = [r["loss"] for r in read_log(out / "metrics.jsonl") if r["phase"] == "plain"]
    assert np.mean(losses[-1]) < np.mean(losses[0])
    domain = found["domain"]
    assert 0 <= domain["readout"] <= 1 and domain["entropy"]["1"] > domain["entropy"]["clip"]
    assert domain["movement"]["1"] < 0.05 < domain["movement"]["clip"]
    for row in (*domain["alpha"].values(), *domain["named"].values()):
        assert sum(row) == pytest.approx(1, abs=1e-4)
    right = [domain["named"][c][i] for i, c in enumerate(found["conditions"])]
    assert np.mean(right) == pytest.approx(domain["readout"], abs=1e-6)
    page, text = ((out / f"segmentation.{end}").read_text() for end in ("html", "md"))
    assert "data:image/webp" in page and "What CLIP says of the condition" in page
    assert "| shuffled | plain |" in text and "images by the name that CLIP gives them" in page
    assert "| condition, named | clear, % |" in text
    assert any("CLIP names the true domain" in line for line in said)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(ran, tmp_path, monkeypatch):
    out, _ = ran
    real, begun = segmentation_trainer.fit_arrays, []

    def stopped(program, states, data, plan, outputs, *shared):
        begun.extend(plan.names)
        if len(begun) == 2:
            stop = lambda step: step >= 6  # in the third of four epochs
            outputs = type(outputs)(**{**vars(outputs), "stop": stop})
        return real(program, states, data, plan, outputs, *shared)

    monkeypatch.setattr(segmentation_trainer, "fit_arrays", stopped)
    same = parse(SMALL)
    with pytest.raises(Preempted):
        run(same, tmp_path / "run")
    assert not (tmp_path / "run" / "segmentation.json").exists()
    run(same, tmp_path / "run")
    # The finished row stays as it is; the other goes on from its checkpoint.
    assert begun == ["plain", "shuffled", "shuffled"]
    whole, gone_on = (read_json(x / "segmentation.json") for x in (out, tmp_path / "run"))
    assert whole["methods"] == gone_on["methods"]
    said = []
    run(same, tmp_path / "run", said.append)
    assert any("this run is finished" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"m": {"prompt": "add"}}}, "methods.m.prompt=add needs decoder=mask"),
        ({"methods": {"m": {"control": "oracle"}}}, "control=oracle has no effect without norm"),
        ({"methods": {"m": {"scale": 0.0}}}, "scale=0.0 has no effect"),
        ({"methods": {"m": {"decoder": "mask", "stats": "group"}}}, "stats has no effect"),
        (
            {"methods": {"m": {"decoder": "mlp", "stats": "group"}}, "width": 9},
            "cuts width=9 into 8",
        ),
        (
            {"methods": {"m": {"decoder": "zero_shot"}}, "accumulate": 2},
            "accumulate=2 has no effect where decoder=zero_shot is all there is",
        ),
        ({"methods": {"m": {"stats": "mean"}}}, "stats is 'mean'; known: instance, .*, batch"),
        ({"methods": {"m": 3}}, "methods.m is 3; give a dict"),
        ({"descriptions": {"fog": ""}}, "descriptions.fog is no text"),
        ({"data": {"train": -1}}, "data.train is -1"),
        ({"data": {"source": ("clear", "clear")}}, "data.source is .*; name each domain once"),
        ({"data": {"source": "fog", "targets": ("fog",)}}, "targets has 'fog', which is a source"),
        ({"data": {"shares": (0.5, 0.5)}}, "shares is .* for 1 source domains; give one for each"),
    ],
)
def test_what_cannot_run_is_refused_at_the_door(changes, words):
    with pytest.raises(ConfigError, match=words):
        parse(SMALL | changes)


def test_one_domain_makes_no_domain_embedding():
    methods = {"m": {"norm": "domino"}}
    with pytest.raises(ConfigError, match="fewer than two domains, so W could not differ"):
        parse(SMALL | {"methods": methods, "descriptions": {"clear": "a clear day"}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "descriptions": {"clear": "a", "fog": "b"},
                "methods": {"m": {"norm": "domino", "control": "oracle"}},
            },
            "control=oracle needs a description of 'night'; add descriptions.night",
        ),
        ({"data": {"source": "hail"}}, "has no domain 'hail'; domains: clear, fog, night"),
        ({"data": {"source": "tinted"}}, "domain 'tinted' of scenes has no val or test images"),
        (
            {"data": {"source": ("clear", "tinted"), "shares": (0.9, 0.2)}},
            "data.shares is .0.9, 0.2.; give each of 'clear' and 'tinted' one, together 1",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused_before_a_model_is_read(changes, words):
    with pytest.raises(ConfigError, match=words):
        prepare(parse(SMALL | {"model": "none"} | changes))


def test_models_of_one_tower_and_places_without_files_are_refused(wee_vit):
    with pytest.raises(Exception, match="a model of type 'vit' gives no maps"):
        prepare(parse(SMALL | {"model": str(wee_vit)}))
    with pytest.raises(ConfigError, match="segmentation, .* need a workdir"):
        run(parse(SMALL))


def test_the_config_is_read_whole():
    made = parse(domino.get_config("smoke").to_dict())
    assert (made.data.train, made.data.test, made.data.sources) == (40, 20, ("clear",))
    assert {method.decoder for method in made.decoders} == {"linear", "mlp"} and not made.levels


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--config.methods.linear.stats=group", ""),
        ("--config.methods.linear.stat=group", "no field methods.linear.stat; .*: classifier"),
        ("--config.epoch=3", "no field epoch; its fields: .*mean epochs"),
    ],
)
def test_fields_of_decoders_are_set_on_the_command_line(option, said):
    found = config_complaint(["--config=domino", option])
    assert re.search(said, found) if said else not found
