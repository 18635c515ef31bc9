"""What a config or its sweep gives and no run could have is refused at the start, in a sentence."""

import pytest

from clipjax.errors import ConfigError
from clipjax.study.plan import open_data
from tests.conftest import methods_of, parsed
from tests.study.test_study import TRUNK, config_of

DANN = {"loss": "dann", "heads": TRUNK}


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("optim.weight_decay", "x", "optim.weight_decay is 'x'; give a finite number"),
        ("optim.lr", (None,), "optim.lr is None"),
        ("optim.lr", -1.0, "optim.lr is -1.0"),
        ("optim.lr", True, "optim.lr is True"),
        ("optim.warmup", 1.5, "optim.warmup is 1.5; give a share"),
        ("optim.lr_mults", (("clip/.*", 0.1),), "optim.lr_mults is .*give pairs"),
        ("optim.lr_mults", ((("clip/.*", float("nan")),),), "a factor is a finite number"),
        ("methods.dann.lam_max", float("nan"), "lam_max is nan"),
        ("methods.dann.gamma", -1.0, "gamma is -1.0"),
        ("methods.dann.schedule", 3, "schedule is 3; give a name"),
        ("methods.dann.label_smoothing", "y", "label_smoothing is 'y'"),
        ("methods.dann.label_smoothing", (None,), "label_smoothing is None"),
        ("methods.dann.label_smoothing", 1.0, "label_smoothing is 1.0; .*less than 1"),
        ("methods.dann.epochs", 1.5, "epochs is 1.5"),
        ("methods.dann.freeze", ("clip/.*",), r"write \(\('clip/\.\*',\),\)"),
        ("methods.dann.freeze", (("clip/(",),), "freeze is .*regular expressions"),
        ("methods.dann.augment", 3, "augment is 3; give a dict"),
        ("methods.dann.heads", (3,), "heads is 3; give a dict"),
        ("methods.dann.heads.classifier", (256,), r"write \(\(256,\),\)"),
        ("methods.dann.heads.classifier", ((2.5,),), r"classifier is \(2.5,\).*tuple of widths"),
        ("methods.dann.heads.members", "a", "members is 'a'"),
        ("methods.dann.heads.text", "no", "text is 'no'; give True or False"),
        ("methods.dann.heads.dropout", 1.5, "dropout is 1.5"),
        ("methods.dann.data", 3, "data is 3; give a dict"),
        ("methods.dann.data.target", 3, "data.target is 3"),
        ("methods.dann.data.shots", "x", "data.shots is 'x'"),
        ("data.shots", 2.5, "data.shots is 2.5; give a whole number"),
        ("data.subset_seed", -1, "data.subset_seed is -1"),
        ("data.fraction", "x", "data.fraction is 'x'"),
    ],
)
def test_values_of_a_sweep(field, value, words):
    config = config_of("", "tiny", dann=DANN)
    config.sweep = ({field: value},)
    with pytest.raises(ConfigError, match=words) as caught:
        methods_of(config)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "entry, words",
    [
        (3, "methods.dann is 3; give a dict"),
        (DANN | {"heads": 3}, "heads is 3"),
        (DANN | {"heads": TRUNK | {"classifier": 256}}, "classifier is 256; give a tuple"),
        (DANN | {"optim": {"lr": float("inf")}}, "optim.lr is inf"),
        (DANN | {"data": {"shots": 2.5}}, "data.shots is 2.5"),
        (DANN | {"phases": 3}, "phases is 3"),
        (DANN | {"phases": {"a": {"optim": 3}}, "phase_order": ("a",)}, "phases.a.optim is 3"),
        (DANN | {"phases": {"1": {}}, "phase_order": ("1",)}, "taken for the checkpoint"),
    ],
)
def test_values_of_a_method(entry, words):
    config = config_of("", "tiny")
    config.methods.dann, config.stages = entry, ("dann",)
    with pytest.raises(ConfigError, match=words):
        methods_of(config)


@pytest.mark.parametrize(
    "field, value",
    [
        ("save_every", 0),
        ("seeds", (0, 0)),
        ("seeds", (-1,)),
        ("seeds", (2**33,)),
        ("seeds", ("0",)),
        ("seeds", ()),
        ("data.subset_seed", -1),
        ("data.fraction", 2.0),
        ("data.epoch", "sauce"),
        ("data.decoder", "fastest"),
        ("data.classes", "open"),
        ("data.max_unreadable", 5.0),
        ("optim.lr", -1.0),
    ],
)
def test_values_of_the_config(field, value):
    config = config_of("", "tiny", dann=DANN)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=field) as caught:
        methods_of(config)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("target, words", [("stencil", "no domain 'stencil'"), ("real", "both")])
def test_targets_of_a_method(photos, wee_clip, target, words):
    config = config_of(photos, wee_clip, dann=DANN | {"data": {"target": target}})
    with pytest.raises(ConfigError, match=words):
        open_data(parsed(config))
