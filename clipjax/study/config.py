"""What a run is told, typed: `Study` and `Pretraining`, and `parse`, which makes them of mappings.

configs/*.py are parsed here once, at the door; nothing below knows ml_collections. In Python:

    Study(data=Data(target="flat"), methods={"head": {...}}, stages=("head",))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from clipjax.errors import ConfigError
from clipjax.io.texts import nfc
from clipjax.study.entries import read_method
from clipjax.study.fields import block, check_names, field, flat, plain, read, short
from clipjax.study.parts import (
    Data,
    DataPlace,
    Devices,
    Encoder,
    Features,
    MethodConfig,
    Training,
    check_seeds,
)
from clipjax.study.sweep import Setting, expand

PRETRAIN = "pretrain"  # the experiment that is no study


@dataclasses.dataclass(frozen=True)
class Study:
    """Zero-shot on every domain, then the methods that `stages` names."""

    experiment: str = field("study", "what the run is called")
    encoder: Encoder = block(Encoder, inline=True)
    data: Data = block(Data)
    features: Features = block(Features)
    devices: Devices = block(Devices, inline=True)
    training: Training = block(Training, inline=True)
    whole_domains: bool = field(False, "zero-shot over train + val + test together too (Table 1)")
    stages: tuple[str, ...] = field((), "which of the methods run, in this order, after zero-shot")
    methods: Mapping = field(
        {},
        'name -> {"loss": file of clipjax/adapt, "heads": {...}, options of the loss}; "epochs", '
        '"freeze", "optim", "augment" and "data" (target, shots, ...) where it has its own; '
        '"phases": {name: the same keys} with "phase_order" where these change while it trains '
        "(configs/tables.py has examples)",
    )
    sweep: tuple = field(
        (),
        'the stages at several settings: a tuple of grids ({"optim.lr": (1e-3, 3e-3), ...},), '
        "each meaning all combinations of its values; docs/sweeps.md says what can vary",
        give="a tuple of grids, ({field: values},)",
    )

    @functools.cached_property
    def trained(self) -> tuple[MethodConfig, ...]:
        """The methods that are trained: each stage, with a sweep at each of its settings."""
        found = expand(flat(self))
        return tuple(
            read_method(name, entry, self.data, self.training) for name, entry in found.items()
        )

    @functools.cached_property
    def settings(self) -> dict[str, tuple[str, Setting]]:
        """name of a method -> (its stage, its setting); empty without a sweep."""
        return {m.name: (m.stage, dict(m.setting)) for m in self.trained} if self.sweep else {}

    @functools.cached_property
    def targets(self) -> tuple[str, ...]:
        """The target domains of all methods, the study's own first."""
        found = (self.data.target, *(method.data.target for method in self.trained))
        return tuple(dict.fromkeys(found))

    @functools.cached_property
    def method_of(self) -> dict[str, str]:
        """Name of a phase, as it is logged -> name of its method."""
        return {phase.name: method.name for method in self.trained for phase in method.phases}


@dataclasses.dataclass(frozen=True)
class PairData(DataPlace):
    """The corpus of pairs that `tools/build_icon_corpus.py` builds, and how batches mix it."""

    root: str = field("corpus", "folder of the corpus")
    mixture: Mapping = field(
        {"emoji-train": 0.55, "icon-colour": 0.33, "icon-mono": 0.12},
        "shares of a batch; groups of the corpus's manifest",
    )
    caption_share: float = field(0.35, "the drawing's own name", low=0, high=1)
    category_share: float = field(0.3, "its category; else any other of its texts", low=0, high=1)
    templates: tuple[str, ...] = field(
        ("a picture of a {}", "a drawing of a {}", "an icon of a {}"), "what says a text"
    )


@dataclasses.dataclass(frozen=True)
class Arch:
    """Sizes of a CLIP from scratch; the vocabulary is the tokenizer's."""

    projection_dim: int = field(128, "width of an embedding", low=1)
    vision: Mapping = field(
        {
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": 64,
            "patch_size": 8,
        },
        "clipjax.model.clip.VisionConfig",
    )
    text: Mapping = field(
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
        },
        "clipjax.model.clip.TextConfig",
    )


@dataclasses.dataclass(frozen=True)
class Painting:
    """Options of `clipjax.data.images.augment.augment_drawings`.

    Mostly white paper, as in the dataset; what else was tried is in the model card.
    """

    strength: float = field(0.5, "0 leaves place and colours alone, 1 is the full range", low=0)
    white: float = field(0.9, "share of drawings on white paper", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class PairOptim:
    """The optimizer of the contrastive stage."""

    name: str = field("adamw", "the optimizer", known=("adamw", "sgd"))
    lr: float = field(3e-4, "peak learning rate", low=0)
    schedule: str = field("cosine", "of the learning rate", known=("constant", "cosine", "step"))
    warmup: float = field(0.03, "fraction of the run", low=0, high=1)
    weight_decay: float = field(0.1, "as torch has it", low=0)
    clip_norm: float = field(1.0, "global norm that gradients are clipped to; 0: off", low=0)
    b2: float = field(0.98, "of Adam's second moment", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A CLIP from scratch on image-text pairs: how clipjax/assets/tiny_clip was made."""

    experiment: str = field(PRETRAIN, "what the run is called", known=(PRETRAIN,))
    model: str = field("scratch", "what results call the model")
    revision: str = field("", "unused")
    init: str = field("", "a model of this architecture to go on from; empty: random weights")
    tokenizer: str = field("tiny", "directory with vocab.json and merges.txt")
    seeds: tuple[int, ...] = field((0,), "the first is taken", check=check_seeds)
    data: PairData = block(PairData)
    arch: Arch = block(Arch)
    augment: Painting = block(Painting)
    devices: Devices = block(Devices, inline=True)
    prompts: str = field("drawings", "of the zero-shot validation")
    class_names: str = field("", "unused")
    keep_patches: float = field(
        0.4, "FLIP: each image shows this share of its patches in training", low=0, high=1
    )
    batch_size: int = field(64, "pairs a step", low=1)
    steps: int = field(5000, "of both phases", low=1)
    full_steps: int = field(300, "the last steps see whole images, as at test time", low=0)
    optim: PairOptim = block(PairOptim)
    keep: int = field(2, "how many of the newest checkpoints stay on disk", low=1)
    log_every: int = field(100, "steps", low=1)
    save_every: int = field(500, "steps; a checkpoint each", low=1)
    evaluate_every: int = field(
        250, "steps; zero-shot accuracy on the embedded validation split; 0: never", low=0
    )


def kind_of(mapping: Mapping[str, Any]) -> type[Study] | type[Pretraining]:
    """What a mapping is read as, by its experiment."""
    return Pretraining if mapping.get("experiment") == PRETRAIN else Study


def parse(mapping: Mapping[str, Any]) -> Study | Pretraining:
    """A config from a plain nested mapping (`ConfigDict.to_dict()`, a run's config.json).

    Fields that the mapping does not have keep their defaults.

    Raises:
      ConfigError: the field as on the command line, its value, what is allowed, and the nearest
        known name.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"the config is {short(mapping)}; give a mapping of its fields.")
    given = _in_nfc(plain(mapping))
    kind = kind_of(given)
    check_names(kind, given)
    made = read(kind, given)
    if not made.experiment:
        raise ConfigError("experiment is ''; give the run a name.")
    if isinstance(made, Study):
        made.trained  # noqa: B018  (refuses what is wrong with them)
    return made


def _in_nfc(given: dict[str, Any]) -> dict[str, Any]:
    """Names of domains as datasets have them: a command line may write another Unicode form."""

    def turn(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turn(inner) for key, inner in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(map(turn, value))
        return nfc(value) if isinstance(value, str) else value

    data = given.get("data")
    named = {key: given[key] for key in ("methods", "sweep") if key in given}
    if isinstance(data, dict):
        kept = ("source", "target", "domains")
        named["data"] = data | {key: turn(data[key]) for key in kept if key in data}
    return given | {k: v if k == "data" else turn(v) for k, v in named.items()}


def checked(made: Study | Pretraining) -> Study | Pretraining:
    """One that was made in Python, read as a mapping is.

    Raises:
      ConfigError: as `parse`.
    """
    if not isinstance(made, (Study, Pretraining)):
        raise ConfigError(f"the config is {short(made)}; give a Study, or `parse` a mapping.")
    return parse(flat(made))
