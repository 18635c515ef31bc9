"""The parts of a config: what is read, what encodes it, how it trains, on which devices.

Fields are named as in configs/*.py and on the command line. Lists of choices repeat what other
files have, so that `--help` needs no JAX; tests/study/test_config.py compares them.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from clipjax.study.fields import field, is_number

_SEEDS = 2**32  # they are kept in 32 bits
# Of clipjax.evaluate.select, with its aliases.
_RULES = (
    "last", "source_val", "negative_entropy", "information_maximization",
    "soft_neighbourhood_density", "proxy_a_distance", "mano", "nuclear_norm", "mixval", "atc",
    "doc", "oracle", "label_free",
)  # fmt: skip
# In which methods of a run may differ.
OWN_DATA = ("target", "labels", "shots", "fraction", "subset_seed")
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


def seed_field(default: tuple[int, ...]) -> Any:
    """Declare a field of random seeds."""
    return field(
        default,
        fits=lambda value: 0 < len(value) == len({s for s in value if 0 <= s < _SEEDS}),
        give=f"a tuple of whole numbers, different ones from 0 to {_SEEDS - 1}",
    )


def _share(default: float) -> Any:
    """Declare a field of a share that is not 0."""
    return field(default, fits=lambda value: 0 < value <= 1, give="a share above 0 and at most 1")


def _is_range(value: str) -> bool:
    found = re.fullmatch(r"(\d+):(\d+)", value)
    return not value or (found is not None and int(found[1]) < int(found[2]))


def _is_epoch(value: str | int) -> bool:
    named = value in ("source", "target", "longest")
    return named or (str(value).isdecimal() and int(value) > 0)


@dataclasses.dataclass(frozen=True)
class DataPlace:
    """Where images lie, and which domains a run is between."""

    # Embedded; with a root what lies there decides, or folder, lists, domainnet, parquet;
    # tfds:NAME for TensorFlow Datasets.
    name: str = "emoji"
    root: str = ""  # folder of the data
    lists: str = ""  # folder of list files that lie elsewhere than root
    fractions: tuple[float, ...] = (0.6, 0.1, 0.3)  # train, val, test without splits
    # Labelled domain, or several.
    source: str | tuple[str, ...] = field(
        "render", give="the name of a domain, or a tuple of names"
    )
    target: str = field("stencil", give="the name of a domain")  # training sees its images only
    decoder: str = field("fast", known=("fast", "reference"))  # same bits; reference is PIL alone
    workers: int = field(0, low=0)  # processes that decode; 0: threads of this one

    def __post_init__(self):
        if isinstance(self.source, tuple) and len(self.source) == 1:
            object.__setattr__(self, "source", self.source[0])

    @property
    def source_name(self) -> str:
        """The labelled domain; several are joined by "+"."""
        return "+".join(self.sources)

    @property
    def sources(self) -> tuple[str, ...]:
        """The labelled domains."""
        return (self.source,) if isinstance(self.source, str) else self.source


@dataclasses.dataclass(frozen=True)
class Data(DataPlace):
    """The data of a study, and which examples of it are trained on."""

    domains: tuple[str, ...] = ()  # evaluated beside source and target; none: all
    classes: str = field("closed", known=("closed", "intersection"))  # or those shared by both ends
    max_unreadable: float = field(0.01, low=0, high=1, give="a share, 0 to 1")  # left out
    # Whose labels are trained on; the target's give an upper bound of what adaptation can reach.
    labels: str = field("source", known=("source", "target"))
    shots: int = field(0, low=0)  # labelled images per class to train on; 0: all
    fraction: float = _share(1.0)  # of each class's labelled images
    subset_seed: int = field(0, low=0)  # which ones; smaller subsets are parts of larger ones
    balanced: bool = False  # draw labelled images so that classes are equally likely
    epoch: str | int = field(  # one pass of a domain, or of the longest, or steps
        "source", fits=_is_epoch, give="source, target, longest, or a number of steps, 1 or more"
    )

    @property
    def labelled(self) -> str:
        """The domain whose labels are trained on."""
        return self.target if self.labels == "target" else self.source_name

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if len(set(self.sources)) < len(self.sources) or not self.sources:
            return f"source is {self.source!r}; name each once."
        if self.shots and self.fraction != 1:
            return f"shots={self.shots} and data.fraction={self.fraction} both choose; set one."
        return ""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The CLIP, and how it sees images and names classes."""

    model: str = "tiny"  # the embedded CLIP; else a Hub id or a directory in its layout
    revision: str = ""  # branch, tag or commit of a Hub id; directories have none
    image_size: int = field(0, low=0)  # 0: the model's; else position embeddings are interpolated
    prompts: str = "drawings"  # key of clipjax.model.prompts.PROMPTS, or a template with {}
    class_names: str = ""  # JSON file {"class": "what prompts call it"}
    compute_dtype: str = field("float32", known=("float32", "bfloat16"))  # of the towers
    remat: str = field("none", known=("none", "dots", "blocks"))  # recomputed, to save memory


@dataclasses.dataclass(frozen=True)
class Features:
    """Images through the frozen encoder, once."""

    batch_size: int = field(64, low=1)  # the last batch of each split is padded to it
    cache: bool = True  # keep them on disk
    dtype: str = field("float32", known=("float32", "float16", "bfloat16"))
    cache_dir: str = ""  # default: clipjax/features in the user's cache folder


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How devices share a batch where the encoder trains (docs/parallel.md)."""

    data: int = field(0, low=0)  # devices (or groups of fsdp) that share a batch; 0: all
    fsdp: int = field(1, low=1)  # devices that share one model's parameters and optimizer state


@dataclasses.dataclass(frozen=True)
class Devices:
    """How a run is computed, not what."""

    parallel: str = field("jit", known=("jit", "pmap"))  # how devices share a batch
    mesh: Mesh = Mesh()
    # Steps to trace into the workdir.
    profile: str = field("", fits=_is_range, give="a range: write 10:20 for steps 10 to 19")

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.parallel == "pmap" and self.mesh.fsdp > 1:
            return (
                "parallel=pmap keeps parameters whole on each device and cannot take mesh.fsdp="
                f"{self.mesh.fsdp}; use parallel=jit."
            )
        return ""


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its learning rate; warm-up and steps are fractions of the run."""

    name: str = field("adamw", known=("adamw", "sgd"))
    lr: float = field(1e-3, low=0)  # peak
    schedule: str = field("cosine", known=("constant", "cosine", "step"))
    warmup: float = field(0.0, low=0, high=1, give="a share of the run, 0 to 1")
    step_every: float = field(1 / 3, low=0)  # of "step"
    gamma: float = field(0.1, low=0)  # factor of "step"
    weight_decay: float = field(1e-2, low=0)  # as torch has it
    clip_norm: float = field(1.0, low=0)  # global norm that gradients are clipped to; 0: off
    # Factors for layer groups, (("clip/.*", 0.1), ...); the first match wins.
    lr_mults: tuple = field(
        (),
        fits=lambda value: all(map(_is_factor, value)),
        give="pairs of a pattern and a factor, as in (('clip/.*', 0.1),), in a sweep a tuple of "
        "such tuples; a factor is a finite number",
    )


@dataclasses.dataclass(frozen=True)
class Augment:
    """A random crop (`clipjax.data.images.augment`), then RandAugment if it has any operations."""

    smallest: float = _share(0.5)  # share of the area kept
    flip: bool = True  # mirror half of the images
    # Of `clipjax.data.images.randaugment`.
    ops: int = field(0, low=0)  # operations an image; 2 are usual
    magnitude: float = field(9.0, low=0, high=30)  # their strength
    cutout: float = field(0.0, low=0, high=1)  # side of a grey square, as a share of the image's


@dataclasses.dataclass(frozen=True)
class Average:
    """A running mean of what trains (`clipjax.adapt.average`): a variant of the results."""

    kind: str = field("uniform", known=("uniform", "ema", "beta"))  # how updates are weighted
    start: float = field(0.0, low=0, high=1)  # of "uniform": share of the run before it begins
    decay: float = field(0.999, low=0, high=1)  # of "ema": weight of the mean so far
    b: float = field(0.5, low=0)  # of "beta": below 1 favours both ends of the run


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Few-shot episodes instead of batches (`clipjax.data.loading.sampler.Episodes`)."""

    way: int = field(5, low=1)  # classes of an episode
    shot: int = field(1, low=1)  # images of each class to learn from
    query: int = field(5, low=1)  # others of each to be judged on
    count: int = field(20, low=1)  # episodes of an epoch


@dataclasses.dataclass(frozen=True)
class Training:
    """How methods train, where they say nothing of their own."""

    seeds: tuple[int, ...] = seed_field((0, 1, 2))  # a run each
    epochs: int = field(40, low=1)  # few images; the report's 10 epochs are of 120,000
    batch_size: int = field(64, low=1)  # images a domain and step
    accumulate: int = field(1, low=1)  # microbatches: less memory where the encoder trains
    # Layer groups: "clip/vision/block_0..5", "clip/text/.*", "clip/logit_scale", ...
    freeze: tuple[str, ...] = field(
        ("clip/.*",),
        fits=lambda value: all(map(_is_pattern, value)),
        give="a tuple of regular expressions, as in ('clip/.*',)",
    )
    optim: Optim = Optim()
    selection: str = field("last", known=_RULES)  # which checkpoint
    save_every: int = field(10, low=1)  # epochs; a checkpoint and a validation each
    keep: int = field(2, low=1)  # newest checkpoints of a phase on disk
    keep_best: int = field(0, low=0)  # best ones by `selection`; 0: the one that it needs
    tensorboard: bool = False  # events in the workdir too; needs the extra of that name

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
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
    align: str = "none"  # how features of source and target are made alike (`clipjax.adapt.align`)

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)
