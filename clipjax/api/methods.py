"""Methods by name: those of the configs that come with clipjax, each with its settings there."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from clipjax.configs import anchored, classics, closed_form, dann, dann_two_stage, encoder_free
from clipjax.errors import ConfigError
from clipjax.study.config import Study
from clipjax.study.fields import flat, meant


class Config(Protocol):
    """What a config file returns, as far as it is read here."""

    methods: Any

    def to_dict(self) -> dict[str, Any]: ...


# What a config says of all its methods, and an entry may say itself.
_SHARED = ("epochs", "optim", "batch_size", "freeze")
# Methods with a recipe each, configs/recipes/NAME.py, and those whose file has another name.
_RECIPES = ("coop", "kgcoop", "cocoop", "maple", "promptsrc", "tip", "tip_f", "clip_adapter")
_RECIPES += ("lora", "lp_plus", "gda_few_shot", "ft_probe", "lp_ft", "wise_ft", "flyp", "clipood")
_RECIPES += ("clip_cite",)
_FILES = {"tip": "tip_adapter", "tip_f": "tip_adapter"}


def methods() -> dict[str, dict[str, Any]]:
    """Return every method's entry (`clipjax.study.Study.methods`) by name.

    >>> [name in methods() for name in ("finetune", "dann", "blend", "coop", "clip_cite")]
    [True, True, True, True, True]
    """
    found: dict[str, dict[str, Any]] = {}
    for module in (closed_form, dann, anchored, classics, encoder_free, dann_two_stage):
        config = module.get_config()
        for name, entry in _plain(config.methods).items():
            found.setdefault(name, _own(config, entry))
    recipe = lambda name: import_module(f"clipjax.configs.recipes.{_FILES.get(name, name)}")
    configs = {name: recipe(name).get_config() for name in _RECIPES}
    return found | {n: _own(c, _plain(c.methods)[n]) for n, c in configs.items()}


def entry_of(method: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and entry of a method; one that is given as an entry is called "own".

    ConfigError: there is no such method.
    """
    if isinstance(method, Mapping):
        return "own", dict(method)
    known = methods()
    if method not in known:
        listed = ", ".join(known)
        remedy = "give one of them, or an entry as {'loss': 'my_package.my_method'}"
        raise ConfigError(
            f"there is no method {method!r}; {remedy}: {listed}.{meant(str(method), known)}"
        )
    return method, known[method]


def _own(config: Config, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a method's entry with what its config changes for all methods."""
    usual, given = flat(Study()), _plain(config)
    more = {key: given[key] for key in _SHARED if given[key] != usual[key]}
    optim = more.get("optim", {}) | entry.get("optim", {})
    return more | entry | ({"optim": optim} if optim else {})


def _plain(config: Config) -> dict[str, Any]:
    return config.to_dict()
