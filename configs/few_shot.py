"""Few-shot methods side by side: the protocols and the competitors of CLIP-CITE (arXiv 2407.04003).

clipjax suite --study=few_shot           every method, protocol and number of images, three subsets
clipjax suite --study=few_shot --smoke   a step or two of all that encode once, and of two others
clipjax run few_shot data.shots=4        all methods once, on 4 images a class

A method is an entry of `methods`, from its recipe. Lengths are in steps, the same for any number of
images, so that one program serves all: 200 of 32 images where features are encoded once, and 20 of
16 where every step encodes images, or texts for each image (the papers take thousands). Few steps
need larger ones: rates are ten times the papers' for prompts, a hundred times for CLIP-Adapter, and
5e-5, ten times CLIP-CITE's, wherever an encoder itself trains. None was tuned on these data.
"""

from clipjax.configs.recipes import (
    clip_adapter,
    clip_cite,
    clipood,
    cocoop,
    coop,
    flyp,
    ft_probe,
    gda_few_shot,
    kgcoop,
    linear_probe,
    lora,
    lp_ft,
    lp_plus,
    maple,
    promptsrc,
    tip_adapter,
)

from clipjax.configs import common

SHOTS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
SLOW_SHOTS = (1, 4, 16)  # of slow methods, unless the command names others
SMOKE_SHOTS = (1,)
# Slow methods of a smoke run that names none: prompts of both towers, and towers that train.
# It trains each method once: heads that hold the classes on all, others on the base ones.
SMOKE_SLOW = ("maple", "clip_cite")
STEPS, EPOCHS, SLOW_EPOCHS = 5, 40, 4  # an epoch's steps; epochs, and those of slow methods
# Row -> a method's further variant that it shows; a method named here shows that and not its own.
VARIANTS = {
    "finetune": ("finetune", "last"),
    "wise_ft": ("finetune", "wise_0.5"),
    "clipood": ("clipood", "average"),
    "promptsrc": ("promptsrc", "average"),
    "clip_cite": ("clip_cite", "wise_0.5"),
    "clip_cite alpha 1": ("clip_cite", "last"),
}
# Their heads hold the classes: they answer no new ones.
FIXED = ("linear_probe", "head_zero_shot", "logistic", "gda", "prototypes", "tip", "tip_f")
FIXED += ("lp_plus", "ft_probe", "lp_ft")


def methods() -> dict[str, dict]:
    """Return an entry for each method, by name: first those that train no encoder."""
    probes, tip = linear_probe.methods(), tip_adapter.methods()
    adapter = clip_adapter.methods()["clip_adapter"]
    fast = {"epochs": EPOCHS, "optim": coop.sgd(2e-2, EPOCHS)}
    return {
        "linear_probe": probes["probe"],
        "head_zero_shot": probes["probe_zero_shot"],
        "logistic": {"loss": "logistic"},
        "gda": {"loss": "gda"},
        "prototypes": {"loss": "prototypes"},
        **gda_few_shot.methods(),
        "lp_plus": lp_plus.methods()["lp_plus"],
        "tip": tip["tip"],
        "tip_f": tip["tip_f"] | {"epochs": EPOCHS},
        "clip_adapter": adapter | {"epochs": EPOCHS, "optim": adapter["optim"] | {"lr": 1e-3}},
        "coop": coop.entry(EPOCHS) | fast,
        "kgcoop": kgcoop.entry(EPOCHS) | fast | {"batch_size": 32},
        **slow_methods(),
    }


def short(entry: dict, optim: dict) -> dict:
    """Return a method's entry with the length and the batches of slow ones."""
    return entry | {"epochs": SLOW_EPOCHS, "batch_size": 16, "optim": optim}


def tuned(entry: dict) -> dict:
    """Return the entry of a method that trains an encoder, with the rate of these."""
    return short(entry, entry["optim"] | {"lr": 5e-5})


def slow_methods() -> dict[str, dict]:
    """Return the methods of which every step encodes images, or texts for each image, by name."""

    prompts, factors = coop.sgd(2e-2, SLOW_EPOCHS), lora.methods()["lora"]
    average = promptsrc.entry()["average"] | {"mean": 3.0, "std": 1.0}
    texts = {"loss": "finetune", "heads": {"text": True}, "freeze": (), "wise": (0.5,)}
    return {
        "cocoop": short(cocoop.entry(), prompts),
        "maple": short(maple.entry(), prompts),
        "promptsrc": short(promptsrc.entry(), prompts) | {"average": average},
        "lora": short(factors, factors["optim"] | {"lr": 2e-3}),
        "ft_probe": tuned(ft_probe.entry()),
        "lp_ft": tuned(lp_ft.methods()["lp_ft"]),
        "finetune": tuned(texts | {"optim": {"weight_decay": 0.1, "clip_norm": 0.0}}),
        "flyp": tuned(flyp.entry()),
        "clipood": tuned(clipood.entry()),
        "clip_cite": tuned(clip_cite.entry()),
    }


def get_config(arg: str | None = None):
    """`few_shot[:source=...,target=...,smoke]`."""
    config = common.study()
    config.experiment, config.seeds = "few_shot", SEEDS
    config.methods, config.stages = methods(), tuple(methods())
    config.data.shots, config.data.shots_rule = SHOTS[-1], "coop"
    config.data.shots_missing = "all"  # as CoOp has it; the embedded data have fewer
    config.data.subset_seed = SEEDS[0]
    config.batch_size, config.data.epoch = 32, str(STEPS)
    config.epochs = config.save_every = EPOCHS
    if common.apply_arg(config, arg):
        shorten(config)
    return config


def shorten(config) -> None:
    """Make a smoke run of a config: a step or two on one image a class."""
    config.data.shots, config.data.epoch = SMOKE_SHOTS[0], "1"
    config.epochs = config.save_every = 2
    for method in config.methods.values():
        if "epochs" in method:
            method.epochs = 1 if method.get("batch_size") == 16 else 2
