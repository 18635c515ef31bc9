"""The parts of a config: what is read, what encodes it, on which devices.

Fields are named as in configs/*.py and on the command line; `--help` and the documentation repeat
what they mean. Lists of choices repeat what other files have, so that `--help` needs no JAX;
tests/study/test_config.py compares them.
"""

import dataclasses
import re

from clipjax.study.fields import field, share_field

HALVES = ("base", "new")  # of the classes
# In which methods of a run may differ.
OWN_DATA = ("target", "labels", "shots", "fraction", "subset_seed")


def _is_range(value: str) -> bool:
    found = re.fullmatch(r"(\d+):(\d+)", value)
    return not value or (found is not None and int(found[1]) < int(found[2]))


def _is_epoch(value: str | int) -> bool:
    named = value in ("source", "target", "longest")
    return named or (str(value).isdecimal() and int(value) > 0)


@dataclasses.dataclass(frozen=True)
class DataPlace:
    """Where images lie, and which domains a run is between."""

    name: str = field(
        "auto",
        "what lies at the root decides, without one the embedded emoji; or emoji_regrouped (the "
        "same under other classes), folder, lists, domainnet, parquet; tfds:NAME",
    )
    root: str = field("", "folder of the data")
    lists: str = field("", "folder of list files that lie elsewhere than root")
    fractions: tuple[float, ...] = field((0.6, 0.1, 0.3), "train, val, test of data without splits")
    source: str | tuple[str, ...] = field(
        "",
        "labelled domain, or several; of the embedded data render",
        give="the name of a domain, or a tuple of names",
    )
    target: str = field(
        "",
        "domain adapted to: training sees its images only; of the embedded data stencil",
        give="the name of a domain",
    )
    decoder: str = field(
        "fast", "of images: the same bits, reference is Pillow alone", known=("fast", "reference")
    )
    workers: int = field(0, "processes that decode images; 0: threads of this one", low=0)

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

    domains: tuple[str, ...] = field((), "evaluated beside source and target; none: all")
    classes: str = field(
        "closed",
        "those of the source, or those that both ends share; base, new: the first and second half "
        "of the source's, each among its own",
        known=("closed", "intersection", "base", "new"),
    )
    score_among: str = field(
        "present",
        "classes that answers are of: in each domain those that it declares, as ImageNet-A and R "
        "are scored, or all; results name the domains that have fewer",
        known=("all", "present"),
    )
    max_unreadable: float = field(
        0.01,
        "share of images that may be unreadable, and are left out",
        low=0,
        high=1,
        give="a share, 0 to 1",
    )
    labels: str = field(
        "source",
        "whose labels are trained on; the target's give an upper bound of what can be reached",
        known=("source", "target"),
    )
    shots: int = field(0, "labelled images a class to train on; 0: all", low=0)
    shots_rule: str = field(
        "nested",
        "which images shots takes: fewer are among more; coop: those of CoOp's code for a seed, "
        "and at most 4 validation images a class",
        known=("nested", "coop"),
    )
    shots_missing: str = field(
        "refuse", "a class with fewer images than shots; all: it gives all", known=("refuse", "all")
    )
    fraction: float = share_field(1.0, "of each class's labelled images to train on")
    fraction_how: str = field(
        "stratified",
        "fraction is of each class, at least one image; uniform: of all images, as in WILDS",
        known=("stratified", "uniform"),
    )
    subset_seed: int = field(
        0, "which images shots or fraction take; smaller subsets are parts of larger ones", low=0
    )
    balanced: bool = field(False, "draw labelled images so that classes are equally likely")
    epoch: str | int = field(
        "source",
        "one pass of this domain, or of the longest, or so many steps",
        fits=_is_epoch,
        give="source, target, longest, or a number of steps, 1 or more",
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
class Evaluation:
    """Classes that a run is tested on beside its own, among themselves."""

    classes: str = field(
        "new", "base and new: halves of the data's classes", known=("all", "base", "new")
    )
    name: str = field("", "of another dataset, as data.name; none, and no root: the run's own")
    root: str = field("", "its folder")

    @property
    def elsewhere(self) -> bool:
        """Whether they are of another dataset."""
        return bool(self.name or self.root)


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """Another dataset, on which zero-shot before and after training is compared."""

    name: str = field("", "of it, as data.name; none, and no root: nothing is compared")
    root: str = field("", "its folder")
    domains: tuple[str, ...] = field((), "of it; none: source and targets, where it has them")

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return bool(self.name or self.root)

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.domains and not self.given:
            return "domains are of another dataset, and none is named; give forgetting.name."
        return ""


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The CLIP, and how it sees images and names classes."""

    model: str = field(
        "", "a Hub id, or a directory in its layout; with the embedded data tiny, the embedded CLIP"
    )
    revision: str = field("", "branch, tag or commit of a Hub id; directories have none")
    teacher: str = field(
        "",
        "a larger CLIP, as model, whose zero-shot answers distill, shot, cmkd and fixmatch learn "
        "from; none: model's own",
    )
    image_size: int = field(
        0, "side in pixels; 0: the model's, else position embeddings are interpolated", low=0
    )
    prompts: str = field(
        "",
        "a set of clipjax.model.prompts, or a template with {}; with the embedded data drawings, "
        "with others simple",
    )
    class_names: str = field("", 'JSON file {"class": "what prompts call it"}')
    compute_dtype: str = field("float32", "of the towers", known=("float32", "bfloat16"))
    remat: str = field(
        "none",
        "what the backward pass computes again, to save memory",
        known=("none", "dots", "blocks"),
    )


@dataclasses.dataclass(frozen=True)
class Features:
    """Images through the frozen encoder, once."""

    batch_size: int = field(64, "images encoded at once", low=1)
    cache: bool = field(True, "keep features on disk")
    dtype: str = field("float32", "of cached features", known=("float32", "float16", "bfloat16"))
    cache_dir: str = field("", "where they are kept; default: clipjax/features in the user's cache")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How devices share a batch where the encoder trains (docs/parallel.md)."""

    data: int = field(0, "devices, or groups of fsdp, that share a batch; 0: all", low=0)
    fsdp: int = field(1, "devices that share one model's parameters and optimizer state", low=1)


@dataclasses.dataclass(frozen=True)
class Devices:
    """How a run is computed, not what."""

    parallel: str = field("jit", "how devices share a batch", known=("jit", "pmap"))
    mesh: Mesh = Mesh()
    profile: str = field(
        "",
        "steps to trace into the workdir, as 10:20",
        fits=_is_range,
        give="a range: write 10:20 for steps 10 to 19",
    )

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.parallel == "pmap" and self.mesh.fsdp > 1:
            return (
                "parallel=pmap keeps parameters whole on each device and cannot take mesh.fsdp="
                f"{self.mesh.fsdp}; use parallel=jit."
            )
        return ""


@dataclasses.dataclass(frozen=True)
class Preserve:
    """Penalties that keep the encoder's geometry as it came (`clipjax.adapt.preserve`)."""

    embedding: float = field(0.0, "factor on the squared distance of embeddings", low=0)
    similarity: float = field(0.0, "factor on the distance of matrices of similarities", low=0)
    of: str = field(
        "within",
        "similarities of images among themselves, texts too; across: of images and texts",
        known=("within", "across"),
    )
    kind: str = field(
        "squared", "mean squared difference, or the divergence of rows", known=("squared", "kl")
    )

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if not (self.embedding or self.similarity):
            return "embedding and similarity are both 0, which preserves nothing; give one of them."
        if not self.similarity and (self.of != "within" or self.kind != "squared"):
            return "of and kind are of the similarities, and similarity is 0; leave them out."
        return ""
