"""The typed configs `Study` and `Pretraining`, and `parse`, which makes them of mappings.

configs/*.py are parsed here once, at the door; nothing below knows ml_collections. In Python:

    Study(data=Data(target="flat"), methods={"head": {...}}, stages=("head",))
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from clipjax.errors import ConfigError
from clipjax.io.texts import nfc
from clipjax.study import parts
from clipjax.study.entries import read_method
from clipjax.study.fields import field, flat, inline, plain, read, short
from clipjax.study.sweep import Setting, expand

PRETRAIN = "pretrain"  # the experiment that is no study


@dataclasses.dataclass(frozen=True)
class Study:
    """Zero-shot on every domain, then the methods that `stages` names."""

    experiment: str = "study"
    encoder: parts.Encoder = inline(parts.Encoder)
    data: parts.Data = parts.Data()
    features: parts.Features = parts.Features()
    devices: parts.Devices = inline(parts.Devices)
    training: parts.Training = inline(parts.Training)
    whole_domains: bool = False  # zero-shot over train + val + test together too (Table 1)
    stages: tuple[str, ...] = ()  # which of the methods run, in this order, after zero-shot
    # name -> {"loss": file of clipjax/adapt, "heads": {...}, options of the loss}; "epochs",
    # "freeze", "optim", "augment" and "data" (target, ...) where it has its own; "phases": {name:
    # the same keys} with "phase_order" where these change. configs/tables.py has examples.
    methods: Mapping = field({})
    # Grids, ({"optim.lr": (1e-3, 3e-3), ...},), each meaning all combinations of its values;
    # docs/sweeps.md says what can vary.
    sweep: tuple = field((), give="a tuple of grids, ({field: values},)")

    @functools.cached_property
    def trained(self) -> tuple[parts.MethodConfig, ...]:
        """The methods that are trained: each stage, with a sweep at each of its settings."""
        found = expand(flat(self))
        return tuple(
            read_method(name, entry, self.data, self.training) for name, entry in found.items()
        )

    @functools.cached_property
    def settings(self) -> dict[str, tuple[str, Setting]]:
        """Method -> (its stage, its setting); empty without a sweep."""
        return {m.name: (m.stage, dict(m.setting)) for m in self.trained} if self.sweep else {}

    @functools.cached_property
    def target_of(self) -> dict[str, str]:
        """Method -> the domain it adapts to."""
        return {method.name: method.data.target for method in self.trained}

    @functools.cached_property
    def targets(self) -> tuple[str, ...]:
        """The target domains of all methods, the study's own first."""
        return tuple(dict.fromkeys((self.data.target, *self.target_of.values())))

    @functools.cached_property
    def method_of(self) -> dict[str, str]:
        """Phase, as it is logged -> its method."""
        return {phase.name: method.name for method in self.trained for phase in method.phases}


@dataclasses.dataclass(frozen=True)
class PairData(parts.DataPlace):
    """The corpus of pairs that `tools/build_icon_corpus.py` builds, and how batches mix it."""

    root: str = "corpus"
    # Shares of a batch, by group of the corpus's manifest.
    mixture: Mapping = field({"emoji-train": 0.45, "icon-colour": 0.3, "icon-mono": 0.25})
    # What is said of a drawing: its own name, its category, else any other of its texts.
    caption_share: float = field(0.35, low=0, high=1)
    category_share: float = field(0.3, low=0, high=1)
    templates: tuple[str, ...] = ("a picture of a {}", "a drawing of a {}", "an icon of a {}")


@dataclasses.dataclass(frozen=True)
class Arch:
    """Sizes of a CLIP from scratch (`clipjax.model.clip`); the vocabulary is the tokenizer's."""

    projection_dim: int = field(128, low=1)  # width of an embedding
    vision: Mapping = field(
        {
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": 64,
            "patch_size": 8,
        }
    )
    text: Mapping = field(
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
        }
    )


@dataclasses.dataclass(frozen=True)
class Painting:
    """Options of `clipjax.data.images.augment.augment_drawings`: mostly on white paper."""

    strength: float = field(0.5, low=0)  # 0 leaves place and colours alone, 1 is the full range
    white: float = field(0.9, low=0, high=1)  # share of drawings on white paper
    # Shares of styles that drawings are redrawn in (`clipjax.data.images.restyle`); {} for none.
    styles: Mapping = field({"colour": 1.0, "grey": 0.5, "stencil": 1.0, "lines": 1.5, "ink": 0.5})


@dataclasses.dataclass(frozen=True)
class PairOptim:
    """The optimizer of the contrastive stage; see `Optim`."""

    name: str = field("adamw", known=("adamw", "sgd"))
    lr: float = field(5e-4, low=0)
    schedule: str = field("cosine", known=("constant", "cosine", "step"))
    warmup: float = field(0.03, low=0, high=1)
    weight_decay: float = field(0.1, low=0)
    clip_norm: float = field(1.0, low=0)
    b2: float = field(0.98, low=0, high=1)  # of Adam's second moment


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A CLIP from scratch on image-text pairs: how clipjax/assets/tiny_clip was made."""

    experiment: str = field(PRETRAIN, known=(PRETRAIN,))
    model: str = "scratch"  # what results call the model
    revision: str = ""  # unused
    init: str = ""  # a model of this architecture to go on from; empty: random weights
    tokenizer: str = "tiny"  # directory with vocab.json and merges.txt
    seeds: tuple[int, ...] = parts.seed_field((0,))  # the first is taken
    data: PairData = PairData()
    arch: Arch = Arch()
    augment: Painting = Painting()
    devices: parts.Devices = inline(parts.Devices)
    prompts: str = "drawings"  # of the zero-shot validation
    class_names: str = ""  # unused
    # Weight of the distance to the features of a teacher (tools/teach_corpus.py); 0: none is read.
    distill: float = field(5.0, low=0)
    ema: float = field(0.998, low=0, high=1)  # decay of the mean of weights that is exported
    keep_patches: float = field(0.4, low=0, high=1)  # FLIP: share of patches seen in training
    batch_size: int = field(128, low=1)  # pairs a step
    steps: int = field(2300, low=1)  # of both phases
    full_steps: int = field(150, low=0)  # the last steps see whole images, as at test time
    optim: PairOptim = PairOptim()
    keep: int = field(2, low=1)  # newest checkpoints on disk
    log_every: int = field(50, low=1)  # steps
    save_every: int = field(250, low=1)  # steps; a checkpoint each
    evaluate_every: int = field(250, low=0)  # steps; zero-shot on the embedded data; 0: never


def kind_of(mapping: Mapping[str, Any]) -> type[Study] | type[Pretraining]:
    """Return the class a mapping is read as, by its experiment."""
    return Pretraining if mapping.get("experiment") == PRETRAIN else Study


def parse(mapping: Mapping[str, Any]) -> Study | Pretraining:
    """Make a config of a plain nested mapping (of a config file, of a run's config.json).

    Fields that the mapping lacks keep their defaults.

    Raises:
      ConfigError: the field as on the command line, its value, what is allowed, and the nearest
        known name.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"the config is {short(mapping)}; give a mapping of its fields.")
    given = plain(mapping)
    data = given.get("data")
    for place, keys in ((given, ("methods", "sweep")), (data, ("source", "target", "domains"))):
        if isinstance(place, dict):
            place |= {key: _in_nfc(place[key]) for key in keys if key in place}
    made = read(kind_of(given), given)
    if not made.experiment:
        raise ConfigError("experiment is ''; give the run a name.")
    if isinstance(made, Study):
        made.trained  # noqa: B018  (refuses what is wrong with them)
    return made


def _in_nfc(value: Any) -> Any:
    """Write names as datasets do: a command line may use another Unicode form."""
    if isinstance(value, dict):
        return {key: _in_nfc(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_in_nfc, value))
    return nfc(value) if isinstance(value, str) else value


def checked(made: Study | Pretraining) -> Study | Pretraining:
    """Return a config that was made in Python, read and checked as `parse` does."""
    if not isinstance(made, (Study, Pretraining)):
        raise ConfigError(f"the config is {short(made)}; give a Study, or `parse` a mapping.")
    return parse(flat(made))
