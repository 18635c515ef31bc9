"""What every experiment has in common: defaults, and the `:key=value,flag` argument string.

clipjax run dann                                     the defaults of an experiment
clipjax run dann source=render target=stencil        common choices
clipjax run dann smoke                               seconds instead of a minute
clipjax run dann optim.lr=3e-4                       any field
clipjax run pretrain augment.styles='{"grey": 1.0}'  a dict whole: what it had is gone

--config=configs/dann.py:source=render,smoke --config.optim.lr=3e-4 says the same in options.
"""

from ml_collections import ConfigDict

from clipjax.study import Pretraining, Study, flat

_KEYS = ("source", "target", "model", "root")
_FLAGS = ("smoke",)


def study() -> ConfigDict:
    """Zero-shot on every domain; experiments add their trained methods.

    `clipjax run --help` has every field with its default and its meaning; they are declared in
    clipjax/study/parts.py, training.py and, `stages`, `methods` and `sweep`, config.py. Encoder,
    devices and training are no blocks here: `model`, `seeds`, `epochs`, `mesh.fsdp`, ... Blocks are
    `data`, `features`, `mesh`, `optim` and `methods`.
    """
    return ConfigDict(flat(Study()))


def pretraining() -> ConfigDict:
    """The contrastive stage: `Pretraining` of clipjax/study/config.py has its fields."""
    return ConfigDict(flat(Pretraining()))


def few_shots(shots: int = 16) -> ConfigDict:
    """`study` of so many labelled images a class; classes that have fewer give all."""
    config = study()
    config.data.shots, config.data.shots_missing = shots, "all"
    return config


def mlp_head(label_smoothing: float = 0.1, members: int = 1) -> dict:
    """The report's head of 2 layers on frozen features (Table 3), or an ensemble of them."""
    return {
        "loss": "finetune",
        "label_smoothing": label_smoothing,
        "heads": {"classifier": (256,), "members": members},
    }


def parse_arg(arg: str | None) -> dict:
    """Splits "source=a,smoke" into {"source": "a", "smoke": True}.

    Raises:
      ValueError: a word that is no choice; those there are are listed.
    """
    choices = {}
    for word in filter(None, (arg or "").split(",")):
        key, equals, value = word.partition("=")
        if (equals and key not in _KEYS) or (not equals and key not in _FLAGS):
            known = ", ".join([f"{k}=..." for k in _KEYS] + list(_FLAGS))
            raise ValueError(f"unknown word {word!r} after the config file; known: {known}.")
        choices[key] = value if equals else True
    return choices


def apply_arg(config: ConfigDict, arg: str | None) -> bool:
    """Puts the choices of the argument string into the config; returns whether `smoke` is one."""
    choices = parse_arg(arg)
    for key in ("source", "target", "root"):
        if key in choices:
            config.data[key] = choices[key]
    config.model = choices.get("model", config.model)
    if "smoke" in choices:
        config.seeds = config.seeds[:1]
    return "smoke" in choices
