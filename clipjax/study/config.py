"""The typed configs, `Study` above all, and `parse`, which makes them of mappings.

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
from clipjax.study.defaults import settled
from clipjax.study.entries import read_method
from clipjax.study.fields import field, flat, inline, plain, read, short
from clipjax.study.segmentation_config import SEGMENTATION, Segmentation
from clipjax.study.sweep import Setting, expand
from clipjax.study.training import MethodConfig, Training, seed_field

PRETRAIN = "pretrain"  # the experiment that is no study


@dataclasses.dataclass(frozen=True)
class Study:
    """Zero-shot on every domain, then the methods that `stages` names."""

    experiment: str = field("study", "name of the run")
    encoder: parts.Encoder = inline(parts.Encoder)
    data: parts.Data = parts.Data()
    features: parts.Features = parts.Features()
    devices: parts.Devices = inline(parts.Devices)
    training: Training = inline(Training)
    whole_domains: bool = field(
        False, "zero-shot over train, val and test together too, as in Table 1"
    )
    stages: tuple[str, ...] = field((), "which of the methods run, in this order, after zero-shot")
    # configs/tables.py has examples.
    methods: Mapping = field({}, "name -> a method: its loss, heads, options and phases")
    evaluations: Mapping = field(
        {},
        "name -> classes that methods are tested on beside their own, among themselves, as in "
        "{'new': {'classes': 'new'}}: all, base or new, also of another dataset (name, root)",
        give="a dict of evaluations, as {'new': {'classes': 'new'}}",
    )
    forgetting: parts.Forgetting = parts.Forgetting()
    sweep: tuple = field(
        (),
        "grids ({'optim.lr': (1e-3, 3e-3), ...},): all combinations of values (docs/sweeps.md)",
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
    def asked(self) -> dict[str, parts.Evaluation]:
        """The evaluations beside the run's own, by name."""
        found = {}
        for name, entry in self.evaluations.items():
            where = f"evaluations.{name}"
            if not isinstance(entry, Mapping):
                raise ConfigError(
                    f"{where} is {short(entry)}; give a dict, as {{'classes': 'new'}}."
                )
            found[name] = read(parts.Evaluation, entry, f"{where}.")
            own = self.data.classes if self.data.classes in parts.HALVES else "all"
            if found[name].classes == own and not found[name].elsewhere:
                raise ConfigError(f"{where} has the classes of the run itself; leave it out.")
            its = set() if found[name].elsewhere else {found[name].classes}
            taken = {"", "own", *parts.HALVES, "all"} - its | {own, "all"}
            if name in taken:
                raise ConfigError(f"{where} needs another name: {name!r} means other classes.")
        return found

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

    root: str = field("corpus", "folder of the corpus")
    mixture: Mapping = field(
        {"emoji-train": 0.45, "icon-colour": 0.3, "icon-mono": 0.25},
        "shares of a batch, by group of the corpus's manifest",
    )
    caption_share: float = field(0.35, "of drawings called by their own name", low=0, high=1)
    category_share: float = field(
        0.3, "of drawings called by their category; the rest by another text", low=0, high=1
    )
    templates: tuple[str, ...] = field(
        ("a picture of a {}", "a drawing of a {}", "an icon of a {}"), "sentences around a name"
    )


@dataclasses.dataclass(frozen=True)
class Arch:
    """Sizes of a CLIP from scratch (`clipjax.model.clip`); the vocabulary is the tokenizer's."""

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
        "sizes of the image tower",
    )
    text: Mapping = field(
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
        },
        "sizes of the text tower",
    )


@dataclasses.dataclass(frozen=True)
class Painting:
    """Options of `clipjax.data.images.augment.augment_drawings`: mostly on white paper."""

    strength: float = field(
        0.5, "0 leaves place and colours alone, 1 is the full range of changes", low=0
    )
    white: float = field(0.9, "share of drawings on white paper", low=0, high=1)
    styles: Mapping = field(
        {"colour": 1.0, "grey": 0.5, "stencil": 1.0, "lines": 1.5, "ink": 0.5},
        "shares of styles that drawings are redrawn in; {} for none",
    )


@dataclasses.dataclass(frozen=True)
class PairOptim:
    """The optimizer of the contrastive stage; see `Optim`."""

    name: str = field("adamw", "the optimizer", known=("adamw", "sgd"))
    lr: float = field(5e-4, "learning rate, at its peak", low=0)
    schedule: str = field("cosine", "of the rate", known=("constant", "cosine", "step"))
    warmup: float = field(0.03, "share of the run to the peak", low=0, high=1)
    weight_decay: float = field(0.1, "as PyTorch's AdamW has it", low=0)
    clip_norm: float = field(1.0, "global norm that gradients are clipped to; 0: off", low=0)
    b2: float = field(0.98, "decay of Adam's second moment", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A CLIP from scratch on image-text pairs: how clipjax/assets/tiny_clip was made."""

    experiment: str = field(PRETRAIN, "name of the run", known=(PRETRAIN,))
    model: str = field("scratch", "what results call the model")
    revision: str = field("", "unused")
    init: str = field("", "a model of this architecture to go on from; empty: random weights")
    tokenizer: str = field("tiny", "directory with vocab.json and merges.txt")
    seeds: tuple[int, ...] = seed_field((0,), "random seeds; the first is taken")
    data: PairData = PairData()
    arch: Arch = Arch()
    augment: Painting = Painting()
    devices: parts.Devices = inline(parts.Devices)
    prompts: str = field("drawings", "of the zero-shot validation")
    class_names: str = field("", "unused")
    distill: float = field(
        5.0,
        "weight of the distance to a teacher's features (tools/teach_corpus.py); 0: none are read",
        low=0,
    )
    ema: float = field(0.998, "decay of the mean of weights that is exported", low=0, high=1)
    keep_patches: float = field(0.4, "share of patches seen in training, as FLIP", low=0, high=1)
    batch_size: int = field(128, "pairs a step", low=1)
    steps: int = field(2300, "steps of both phases together", low=1)
    full_steps: int = field(150, "last steps, which see whole images as at test time", low=0)
    optim: PairOptim = PairOptim()
    keep: int = field(2, "newest checkpoints on disk", low=1)
    log_every: int = field(50, "steps between records", low=1)
    save_every: int = field(250, "steps between checkpoints", low=1)
    evaluate_every: int = field(
        250, "steps between zero-shot tests on the embedded data; 0: none", low=0
    )


Config = Study | Pretraining | Segmentation


def kind_of(mapping: Mapping[str, Any]) -> type[Config]:
    """Return the class a mapping is read as, by its experiment."""
    kinds = {PRETRAIN: Pretraining, SEGMENTATION: Segmentation}
    return kinds.get(mapping.get("experiment"), Study)


def parse(mapping: Mapping[str, Any]) -> Config:
    """Make a config of a plain nested mapping (of a config file, of a run's config.json).

    Fields that the mapping lacks keep their defaults; `clipjax.study.defaults` fills in what
    depends on the data.

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
        made = settled(made)
        made.trained, made.asked  # noqa: B018  (they refuse what is wrong with them)
    return made


def _in_nfc(value: Any) -> Any:
    """Write names as datasets do: a command line may use another Unicode form."""
    if isinstance(value, dict):
        return {key: _in_nfc(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_in_nfc, value))
    return nfc(value) if isinstance(value, str) else value


def checked(made: Config) -> Config:
    """Return a config that was made in Python, read and checked as `parse` does."""
    if not isinstance(made, Config):
        raise ConfigError(f"the config is {short(made)}; give a Study, or `parse` a mapping.")
    return parse(flat(made))
