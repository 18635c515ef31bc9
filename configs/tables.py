"""The report's six tables.

clipjax run tables:3     one table
clipjax suite                                 all of them

The report trains 10 epochs on 120,000 photos, and 6 + 14 in two stages. The embedded dataset has
448 images a domain: heads on frozen features train for `common.study`'s 40 epochs there, encoders
for 4, and 3 + 5 in two stages (a step of 64 images takes a second on 2 cores). `as_published` sets
the report's lengths, for its own data. Rates are the report's everywhere.
"""

from clipjax.configs import common

TABLES = (1, 2, 3, 4, 5, 6)

# The report's accuracies (seed 000) on DomainNet, trained on real: method -> domain -> value.
PUBLISHED = {
    1: {
        "zero_shot": {
            "real": 0.78,
            "clipart": 0.62,
            "painting": 0.59,
            "sketch": 0.55,
            "infograph": 0.40,
        }
    },
    2: {
        "full_smoothed": {"real": 0.86, "clipart": 0.65, "infograph": 0.38},
        "full": {"real": 0.85, "clipart": 0.63, "infograph": 0.37},
    },
    3: {
        "mlp2_step": {"real": 0.84, "clipart": 0.59, "infograph": 0.36},
        "mlp2_cosine": {"real": 0.84, "clipart": 0.59, "infograph": 0.36},
        "mlp5_step": {"real": 0.73, "clipart": 0.43, "infograph": 0.23},
        "mlp5_cosine": {"real": 0.73, "clipart": 0.42, "infograph": 0.20},
    },
    4: {"ensemble": {"real": 0.82, "clipart": 0.53, "infograph": 0.33}},
    5: {
        "dann_lr1e-2": {"real": 0.83, "clipart": 0.58},
        "dann_lr1e-3": {"real": 0.84, "clipart": 0.59},
    },
    6: {
        "no_domain_loss": {"real": 0.84, "clipart": 0.58},
        "domain_loss_max03": {"real": 0.84, "clipart": 0.60},
        "domain_loss_max06": {"real": 0.83, "clipart": 0.62},
    },
}


def _head(layers: int, schedule: str) -> dict:
    """A head of `layers` layers, its learning rate falling in steps or along a cosine."""
    method = common.mlp_head()
    return method | {
        "heads": {"classifier": (256,) * (layers - 1)},
        "optim": {"schedule": schedule},
    }


def _dann(lr: float, schedule: str, lam_max: float) -> dict:
    """DANN with MLPs of 3 (adapter), 2 (class) and 2 (domain) layers."""
    return {
        "loss": "dann",
        "label_smoothing": 0.1,
        "schedule": schedule,
        "lam_max": lam_max,
        "heads": {"adapter": (256, 256, 256), "classifier": (256,), "discriminator": (256,)},
        "optim": {"lr": lr},
    }


def _full(label_smoothing: float) -> dict:
    """Both towers and the logit scale trained through CLIP's own text classifier."""
    return {
        "loss": "finetune",
        "label_smoothing": label_smoothing,
        "heads": {"text": True},
        "epochs": 4,
        "freeze": (),
        "optim": {"lr": 1e-3, "warmup": 0.1},
    }


def _two_stage(lam_max: float, domain_weight: float) -> dict:
    """The first 3 of 8 epochs with CLIP frozen, then the vision tower free; lambda over all 8."""
    return _dann(1e-3, "ganin", lam_max) | {
        "phases": {
            "frozen": {"epochs": 3},
            "unfrozen": {
                "epochs": 5,
                "freeze": ("clip/text/.*", "clip/logit_scale"),
                "domain_weight": domain_weight,
                "optim": {"warmup": 0.1},
            },
        },
        "phase_order": ("frozen", "unfrozen"),
    }


def methods(table: int) -> dict[str, dict]:
    """The trained rows of a table, in order."""
    if table == 1:
        return {}
    if table == 2:
        return {"full_smoothed": _full(0.1), "full": _full(0.0)}
    if table == 6:
        return {
            "no_domain_loss": _two_stage(0.3, 0.0),
            "domain_loss_max03": _two_stage(0.3, 1.0),
            "domain_loss_max06": _two_stage(0.6, 1.0),
        }
    if table == 3:
        return {
            f"mlp{layers}_{name}": _head(layers, name)
            for layers in (2, 3, 5)
            for name in ("step", "cosine")
        }
    if table == 4:
        diversity = {"diversity_weight": 1.0, "diversity_margin": 1.0}
        ensemble = common.mlp_head(members=3)
        return {"ensemble": ensemble, "ensemble_diverse": ensemble | diversity}
    return {
        "dann_lr1e-2": _dann(1e-2, "ganin", 0.8),
        "dann_lr1e-3": _dann(1e-3, "ganin", 0.8),
        "dann_constant": _dann(1e-3, "constant", 0.5),
    }


def as_published(config) -> None:
    """The report's own lengths, for its own data."""
    config.epochs, config.save_every = 10, 1
    config.prompts = "simple"
    for method in config.methods.values():
        if "epochs" in method:
            method.epochs = 10
        if "phases" in method:
            method.phases.frozen.epochs, method.phases.unfrozen.epochs = 6, 14


def shorten(config) -> None:
    """One epoch a phase, two without phases: a smoke run."""
    config.epochs = 2
    for method in config.methods.values():
        for phase in method.get("phases", {}).values():
            phase.epochs = 1
        if "epochs" in method:
            method.epochs = 1


def get_config(arg: str | None = None):
    """`--config=configs/tables.py:3[,source=...,target=...,smoke]`: the number comes first."""
    number, _, rest = (arg or "1").partition(",")
    if number not in map(str, TABLES):
        raise ValueError(
            f"{number!r} is no table of the report; those are {', '.join(map(str, TABLES))}, as in "
            "configs/tables.py:3,source=flat."
        )
    table = int(number)
    config = common.study()
    config.experiment = f"table{table}"
    config.whole_domains = table == 1
    if table in (2, 6):
        config.save_every = 4
    for name, method in methods(table).items():
        config.methods[name] = method
        config.stages += (name,)
    if common.apply_arg(config, rest):
        shorten(config)
    return config
