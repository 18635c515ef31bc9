"""The parts of a config that say how methods train: optimizer, phases, what a method is.

Choices are repeated here as in clipjax/study/parts.py.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from clipjax.log import sinks as trackers
from clipjax.study.averages import Average, Soup
from clipjax.study.episode_config import Episodes
from clipjax.study.fields import field, is_number, share_field
from clipjax.study.parts import Data, Preserve

_MAGNITUDE = 9.0  # of RandAugment
_SEEDS = 2**32  # they are kept in 32 bits
# Of clipjax.evaluate.select, with its aliases.
_RULES = (
    "last", "source_val", "negative_entropy", "information_maximization",
    "soft_neighbourhood_density", "proxy_a_distance", "mano", "nuclear_norm", "mixval", "atc",
    "doc", "oracle", "label_free",
)  # fmt: skip
ALIGN = ("none", "centre", "standardise", "coral")  # of clipjax.adapt.align


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def _is_factor(pair: Any) -> bool:
    """Return whether this is (pattern, factor)."""
    fits = isinstance(pair, tuple) and len(pair) == 2
    return fits and _is_pattern(pair[0]) and is_number(pair[1])


def seed_field(default: tuple[int, ...], told: str) -> Any:
    """Declare a field of random seeds."""
    return field(
        default,
        told,
        fits=lambda value: 0 < len(value) == len({s for s in value if 0 <= s < _SEEDS}),
        give=f"a tuple of whole numbers, different ones from 0 to {_SEEDS - 1}",
    )


def _decay_field(default: float, told: str) -> Any:
    """Declare a field of the share of a running mean that stays with each step."""
    fits = lambda value: 0 <= value < 1
    return field(default, told, fits=fits, give="at least 0 and less than 1")


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its learning rate; warm-up and steps are fractions of the run."""

    name: str = field(
        "adamw", "adam: its decay is part of the gradient", known=("adamw", "adam", "sgd")
    )
    lr: float = field(1e-3, "learning rate, at its peak", low=0)
    schedule: str = field(
        "cosine",
        "of the rate; slanted is ULMFiT's triangle",
        known=("constant", "cosine", "linear", "step", "slanted"),
    )
    warmup: float = field(
        0.0, "share of the run to the peak", low=0, high=1, give="a share of the run, 0 to 1"
    )
    warmup_kind: str = field(
        "linear",
        "up from warmup_from; linear_next is a step ahead (open_clip); cosine is half a cosine, up "
        "or down (torch's SWALR); constant stays at warmup_from, then the schedule begins in its "
        "whole length (Dassl)",
        known=("linear", "linear_next", "cosine", "constant"),
    )
    warmup_from: float = field(0.0, "rate at which the warm-up starts", low=0)
    step_every: float = field(1 / 3, "share of the run between steps of schedule=step", low=0)
    gamma: float = field(0.1, "factor of each step of schedule=step", low=0)
    min_lr: float = field(0.0, "lowest rate after the warm-up", low=0)
    schedule_every: str = field(
        "step", "how often the rate changes, as in Dassl with epoch", known=("step", "epoch")
    )
    schedule_over: str = field(
        "phase", "what the schedule runs over: each phase anew, or the run", known=("phase", "run")
    )
    weight_decay: float = field(1e-2, "as PyTorch's optimizer of this name has it", low=0)
    decay: str = field(
        "matrices",
        "what decays; all: biases, norms and the temperature too",
        known=("matrices", "all"),
    )
    clip_norm: float = field(1.0, "global norm that gradients are clipped to; 0: off", low=0)
    clip_value: float = field(
        0.0, "size that single gradients are clipped to, before clip_norm; 0: off", low=0
    )
    b1: float = _decay_field(0.9, "Adam's decay of gradients")
    b2: float = _decay_field(0.999, "Adam's decay of squared gradients")
    eps: float = field(1e-8, "added to the root of Adam's squared gradients", low=0)
    momentum: float = _decay_field(0.9, "of sgd")
    nesterov: bool = field(True, "whether sgd's momentum is Nesterov's")
    layer_decay: float = share_field(
        1.0, "factor on the rate with every layer of a tower below its output; 0.65 is usual"
    )
    lr_mults: tuple = field(
        (),
        "factors of the rate for layer groups, (('clip/.*', 0.1), ...); the first match wins",
        fits=lambda value: all(map(_is_factor, value)),
        give="pairs of a pattern and a factor, as in (('clip/.*', 0.1),), in a sweep a tuple of "
        "such tuples; a factor is a finite number",
    )

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.min_lr > self.lr:
            return f"min_lr={self.min_lr} is above lr={self.lr}; give a smaller one."
        if self.min_lr and self.schedule in ("constant", "slanted"):
            return (
                f"min_lr={self.min_lr} has no effect with schedule={self.schedule}; leave it out, "
                "or choose cosine, linear or step."
            )
        if self.warmup and self.warmup_kind == "constant" and not self.warmup_from:
            return "warmup_kind=constant stays at warmup_from, which is 0; give a rate."
        if self.warmup_kind in ("constant", "cosine") and not self.warmup:
            told = f"warmup_kind={self.warmup_kind} says how a warm-up goes, and warmup is 0"
            return f"{told}: there is none; give a share of the run (1 for torch's SWALR)."
        return ""


@dataclasses.dataclass(frozen=True)
class Augment:
    """A random crop (`clipjax.data.images.augment`), then RandAugment if it has any operations."""

    smallest: float = share_field(0.5, "smallest share of the area that a crop keeps")
    flip: bool = field(True, "mirror half of the images")
    ops: int = field(0, "RandAugment's operations an image; 2 are usual", low=0)
    magnitude: float = field(_MAGNITUDE, "strength of these operations", low=0, high=30)
    cutout: float = field(
        0.0, "side of a grey square, as a share of the image's; 0: none", low=0, high=1
    )

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.magnitude != _MAGNITUDE and not self.ops:
            return f"magnitude={self.magnitude} is of ops, which is 0; leave it out."
        return ""


@dataclasses.dataclass(frozen=True)
class Unfreeze:
    """Layers that thaw one after the other, a phase each (`clipjax.study.unfreeze`)."""

    order: tuple[str, ...] = field(
        (),
        "patterns of layer groups, first to thaw first; block_5..0 is six of them",
        fits=lambda value: all(map(_is_pattern, value)),
        give="a tuple of regular expressions, as in ('clip/vision/block_5..0',)",
    )
    epochs: int = field(1, "epochs from one to the next", low=1)


@dataclasses.dataclass(frozen=True)
class Training:
    """How methods train, where they say nothing of their own."""

    seeds: tuple[int, ...] = seed_field((0, 1, 2), "random seeds, a run each")
    epochs: int = field(40, "passes over the data; few images need many", low=1)
    batch_size: int = field(64, "images a domain and step", low=1)
    accumulate: int = field(
        1, "microbatches of a step: less memory where the encoder trains", low=1
    )
    freeze: tuple[str, ...] = field(
        ("clip/.*",),
        "layer groups that do not train, by patterns: clip/vision/block_0..5, clip/text/.*, ...",
        fits=lambda value: all(map(_is_pattern, value)),
        give="a tuple of regular expressions, as in ('clip/.*',)",
    )
    optim: Optim = Optim()
    selection: str = field("last", "the rule that picks a checkpoint", known=_RULES)
    patience: int = field(
        0,
        "validations without a better score of `selection` that end the last phase; 0: off",
        low=0,
    )
    min_delta: float = field(0.0, "by how much a score must be better for patience", low=0)
    save_every: int = field(10, "epochs between checkpoints, with a validation each", low=1)
    keep: int = field(2, "newest checkpoints of a phase on disk", low=1)
    keep_best: int = field(
        0, "best checkpoints by `selection` on disk; 0: the one that it needs", low=0
    )
    track: str = field(
        "",
        "where numbers go beside metrics.jsonl: tensorboard, wandb, mlflow, several with commas; "
        "each needs the extra of its name",
        fits=lambda value: set(trackers.names(value)) <= set(trackers.TRACKERS),
        give=f"names among {', '.join(trackers.TRACKERS)}, with commas between them",
    )

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.patience and self.selection == "last":
            return (
                f"patience={self.patience} waits for a better score of `selection`, and "
                "selection=last has none; choose a rule, as selection=source_val."
            )
        if self.min_delta and not self.patience:
            return f"min_delta={self.min_delta} is of patience, which is 0; leave it out."
        if self.keep_best and self.selection == "last":
            return (
                f"keep_best={self.keep_best} keeps the best checkpoints by `selection`, and "
                "selection=last ranks none; choose a rule, or set keep_best=0."
            )
        if self.batch_size % self.accumulate:
            return (
                f"batch_size={self.batch_size} cannot be dealt out to accumulate="
                f"{self.accumulate} microbatches; choose a divisor."
            )
        return ""


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """A stretch of a method's training with one loss, one freezing mask and one schedule."""

    name: str  # in logs and folders: the method's, and its own where there are several
    label: str  # its own; "" where the method is one phase
    epochs: int
    freeze: tuple[str, ...]
    optim: Optim
    augment: Augment | None
    options: Mapping[str, Any]  # of the loss
    average: Average | None = None


def wise_name(share: float) -> str:
    """Return the name of the variant so far from zero-shot."""
    return f"wise_{share:g}"


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """A method that is trained: a stage, of a sweep at one of its settings."""

    name: str
    stage: str  # its entry of `methods`
    setting: Mapping[str, Any]  # field -> value: what the sweep changed
    loss: str  # file of clipjax/adapt, or the module of a user's own
    heads: Mapping[str, Any] | None  # fields of clipjax.model.heads.Heads
    data: Data  # what it trains on, all of it
    phases: tuple[PhaseConfig, ...]
    episodes: Episodes | None = None
    batch_size: int = 64  # images a domain and step
    thaws: tuple[str, ...] = ()  # patterns that `unfreeze` frees one after the other
    align: str = "none"  # how features of source and target are made alike (`clipjax.adapt.align`)
    wise: tuple[float, ...] = ()  # shares of the way from zero-shot to the trained, each a variant
    result: str = "last"  # the variant that is the method's own result
    soup: Soup | None = None  # of the weights of its runs
    preserve: Preserve | None = None  # penalties that keep the encoder's geometry

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def with_episodes(self, classes: int, judged: bool) -> "MethodConfig":
        """Return it with its episodes `settled`, if it has any."""
        episodes = self.episodes and self.episodes.settled(classes, judged)
        return dataclasses.replace(self, episodes=episodes)
