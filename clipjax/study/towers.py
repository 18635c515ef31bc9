"""Which towers a config's methods move, and the penalties that hold these (`preserve`)."""

from clipjax.adapt.method import Backbone, Classes, ClosedForm, Method
from clipjax.adapt.preserve import preserved
from clipjax.errors import ConfigError
from clipjax.study.config import Config, Pretraining, Study
from clipjax.study.training import MethodConfig, PhaseConfig
from clipjax.train.groups import is_frozen

_DEEPEST = 64  # blocks; no CLIP has as many
LAYERS = ("embedding", *(f"block_{i}" for i in range(_DEEPEST)))  # below a tower's projection
GROUPS = {"image": "clip/vision", "text": "clip/text"}


def trains(tower: str, phase: PhaseConfig) -> bool:
    """Return whether a phase leaves a layer of a tower free, by the config alone."""
    groups = (f"{GROUPS[tower]}/{layer}" for layer in (*LAYERS, "projection"))
    return not all(is_frozen(group, phase.freeze) for group in groups)


def trains_on_pixels(config: Config) -> bool:
    """Return whether a method trains from pixels, by the config alone; in doubt, True."""
    if not isinstance(config, Study):
        return isinstance(config, Pretraining)
    phases = (phase for method in config.trained for phase in method.phases)
    return any(phase.augment is not None or trains("image", phase) for phase in phases)


def moved_towers(made: Method | ClosedForm, phase: PhaseConfig) -> tuple[str, ...]:
    """Return the towers whose embeddings a phase changes: they train, or the method alters them."""
    if isinstance(made, ClosedForm):
        return ()
    # What learned prompts make of texts is not the tower's alone; low ranks merge into it.
    known = ("image", "text") if made.merged else ("image",)
    altered = lambda tower: tower in made.alters and tower in known
    moves = lambda tower: altered(tower) or (tower in made.towers and trains(tower, phase))
    return tuple(filter(moves, GROUPS))


def held(
    made: Method, backbone: Backbone, classes: Classes, config: MethodConfig, phase: PhaseConfig
) -> Method:
    """Return a method with the penalties that its config asks for, in a phase."""
    return preserved(made, backbone, classes, moved_towers(made, phase), **vars(config.preserve))


def check_preserve(where: str, made: Method | ClosedForm, config: MethodConfig) -> None:
    """Raise ConfigError for penalties that would have no effect."""
    if config.preserve is None or any(moved_towers(made, phase) for phase in config.phases):
        return
    fault, remedy = f"{where}: preserve would have no effect", "leave it out"
    if isinstance(made, ClosedForm):
        raise ConfigError(f"{fault}: loss {config.loss!r} trains no encoder; {remedy}.")
    runs = " or ".join(f"{GROUPS[tower]}/.*" for tower in made.towers)
    told = f"freeze leaves nothing of {runs} to train"
    raise ConfigError(f"{fault}: {told}, and frozen embeddings stay; free some, or {remedy}.")
