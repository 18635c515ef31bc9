"""Options that would have no effect are refused."""

import dataclasses

import pytest

from clipjax.errors import ConfigError
from clipjax.study.training import Optim
from tests.conftest import methods_of
from tests.study.test_study import config_of

HEAD = {"loss": "finetune", "heads": {}}
THAW = {"order": ("clip/vision/block_1",)}
PROBE = {"loss": "probe"}
CORAL = {"loss": "coral", "heads": {}}
COOP = {"data.shots_rule": "coop", "data.shots": 2}


@pytest.mark.parametrize(
    "entry, fields, words",
    [
        (PROBE | {"epochs": 3}, {}, "methods.m.epochs: loss 'probe' takes no steps; leave it out"),
        (PROBE | {"optim": {"lr": 1e-3}}, {}, "methods.m.optim: loss 'probe' takes no steps"),
        (PROBE | {"unfreeze": THAW}, {"epochs": 3}, "m.unfreeze: l"),
        (PROBE, {"sweep": ({"methods.m.optim.lr": (1e-3, 1e-2)},)}, "m.optim.lr: loss 'probe' t"),
        (PROBE, {"patience": 2, "selection": "source_val"}, "patience=2 ends runs early, and no m"),
        (HEAD | {"optim": {"layer_decay": 0.5}}, {}, "methods.m: optim.layer_decay has no layers"),
        (HEAD | {"optim": {"momentum": 0.8}}, {}, "methods.m: optim.momentum has no effect with a"),
        (HEAD | {"optim": {"name": "sgd", "eps": 1e-4}}, {}, "optim.eps has no effect with sgd"),
        (HEAD | {"optim": {"gamma": 0.5}}, {}, "optim.gamma has no effect with another"),
        (HEAD | {"optim": {"warmup_from": 1e-5}}, {}, "optim.warmup_from has no effect"),
        (HEAD, {"optim.nesterov": False}, "^optim.nesterov has no effect with adam and adamw; le"),
        (HEAD, {"sweep": ({"optim.step_every": (0.2, 0.5)},)}, "optim.step_every has no effect"),
        (HEAD, {"min_delta": 0.1}, "min_delta=0.1 is of patience, which is 0"),
        (HEAD | {"augment": {"magnitude": 5.0}}, {}, "magnitude=5.0 is of ops, which is 0"),
        (
            {"loss": "prototypes", "episodes": {"held_out_seed": 1, "held_out": 0}},
            {},
            "held_out_seed=1 is of held_out, which is 0",
        ),
        ({"loss": "prototypes", "episodes": {"test_way": 3, "test": 0}}, {}, "test is 0; leave it"),
        (
            HEAD
            | {"freeze": (), "optim": {"layer_decay": 0.5, "lr_mults": (("clip/.*", 0.1),)}},
            {},
            "have a rate of their own by lr_mults",
        ),
        (HEAD, {"optim.layer_decay": 0.5}, "no layers to act on: every method freezes all towers"),
        (HEAD, {"sweep": ({"optim.layer_decay": (1.0, 0.5)},)}, "every method freezes all towers"),
        (HEAD, {"data.shots_rule": "coop"}, "shots_rule=coop says which images shots takes, and"),
        (HEAD | {"data": {"shots": 4}}, COOP, "with shots or a subset_seed of its own: .* apart"),
        (HEAD, COOP | {"sweep": ({"data.subset_seed": (0, 1)},)}, "with shots or a subset_seed"),
        (CORAL, {}, "methods.m: loss 'coral' has a term on features, and nothing that makes these"),
        (CORAL | {"heads": {"adapter": (8,)}, "freeze": ("clip/.*", "adapter")}, {}, "that makes"),
        (CORAL | {"loss": "afn"}, {}, "'afn' has a term on features.*heads.adapter, or free layer"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused(entry, fields, words):
    config = config_of("", "tiny", m=entry)
    config.update_from_flattened_dict({"sweep": ()} | fields)
    with pytest.raises(ConfigError, match=words):
        methods_of(config)


def test_what_some_method_heeds_is_taken():
    tower = HEAD | {"freeze": ("clip/text/.*",), "optim": {"layer_decay": 0.5}}
    config = config_of("", "tiny", probe=PROBE, head=HEAD, tower=tower)
    config.optim.layer_decay, config.patience, config.selection = 0.7, 2, "source_val"
    config.sweep = ({"optim.lr": (1e-3, 1e-2)},)
    assert len(methods_of(config)) == 6
    moved = ({"on": "logits"}, {"weight": 0.0}, {"freeze": ("clip/text/.*",)})
    assert all(methods_of(config_of("", "tiny", m=CORAL | more)) for more in moved)
    config = config_of("", "tiny", head=HEAD)
    config.update_from_flattened_dict(COOP)
    assert methods_of(config)["head"].data.shots == 2
    whole = {f.name: getattr(Optim(), f.name) for f in dataclasses.fields(Optim)}  # says nothing
    steps = {"schedule": "step", "gamma": 0.5, "name": "sgd", "momentum": 0.8}
    config = config_of("", "tiny", usual=HEAD | {"optim": whole}, steps=HEAD | {"optim": steps})
    config.optim.nesterov = False
    assert methods_of(config)["steps"].phases[0].optim.gamma == 0.5
