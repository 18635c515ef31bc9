"""The typed config of a segmentation run: scenes, a frozen CLIP, decoders, Domino."""

import dataclasses
import functools
from collections.abc import Mapping

from clipjax.errors import ConfigError
from clipjax.study.fields import field, read, short
from clipjax.study.mask_data import MaskData
from clipjax.study.training import seed_field

SEGMENTATION = "segmentation"
# Domain of a scene -> the text that CLIP reads it off by.
DESCRIPTIONS = {
    "clear": "a clear day",
    "fog": "a foggy day",
    "night": "a dark night",
    "rain": "a rainy day",
    "snow": "a snowy day",
}


@dataclasses.dataclass(frozen=True)
class SegmentationMethod:
    """A decoder on frozen maps, and what it is told of the domain."""

    name: str
    decoder: str = field(
        "linear",
        "pup: convolutions that upsample; mask: Segmenter's",
        known=("linear", "pup", "mask"),
    )
    norm: str = field(
        "plain", "domino: scale and shift of its norms are made of W", known=("plain", "domino")
    )
    prompt: str = field(
        "none",
        "what W does to the class tokens of decoder=mask, where it can act",
        known=("none", "add", "sub"),
    )
    control: str = field(
        "none",
        "what W is: none: of CLIP's reading; constant, shuffled over images, or the true domain's",
        known=("none", "constant", "shuffled", "oracle"),
    )
    scale: float = field(
        1.0, "factor on cosines of image and descriptions: 1 is the paper, 0 CLIP's own", low=0
    )
    stats: str = field(
        "instance", "what norms standardise over", known=("instance", "group", "layer")
    )

    @property
    def uses_domain(self) -> bool:
        """Return whether it reads W."""
        return self.norm == "domino" or self.prompt != "none"

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.prompt != "none" and self.decoder != "mask":
            return (
                f"prompt={self.prompt} needs decoder=mask: the logits of decoder={self.decoder} "
                "all move alike, so no answer would change."
            )
        if self.decoder == "mask" and self.stats != "instance":
            return "stats has no effect on decoder=mask, whose norms are over channels."
        for name, usual in (("control", "none"), ("scale", 1.0)):
            if not self.uses_domain and (value := getattr(self, name)) != usual:
                return f"{name}={value} has no effect without norm=domino, or a prompt."
        return ""


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """How well scenes are segmented in weather that no training image shows."""

    experiment: str = field(SEGMENTATION, "name of the run", known=(SEGMENTATION,))
    model: str = field("tiny", "a CLIP: a Hub id or a directory in Hugging Face layout")
    seeds: tuple[int, ...] = seed_field((0, 1, 2), "random seeds")
    data: MaskData = MaskData()
    descriptions: Mapping = field(DESCRIPTIONS, "domain -> the text that names it")
    last: str = field(
        "state",
        "of the last block; value: without attention's mixing, as MaskCLIP",
        known=("state", "value"),
    )
    methods: Mapping = field({"linear": {}}, "name -> fields of a decoder")
    width: int = field(64, "of the decoders' convolutions and tokens", low=8)
    epochs: int = field(20, "passes over the training scenes", low=1)
    batch_size: int = field(32, "scenes a step", low=1)
    lr: float = field(1e-3, "learning rate of AdamW, at its start", low=0)
    weight_decay: float = field(1e-3, "decoupled", low=0)
    warmup: float = field(
        0.05, "share of the run to the full rate, which then falls linearly", low=0, high=1
    )
    class_weights: str = field(
        "none",
        "in the loss; sqrt: 1 / sqrt(p); enet: 1 / ln(1.02 + p), p a class's share of pixels",
        known=("none", "sqrt", "enet"),
    )
    normaliser: str = field(
        "weights",
        "what the weighted sum is divided by, see clipjax.adapt.pixels",
        known=("weights", "labelled", "pixels"),
    )
    save_every: int = field(10, "epochs between checkpoints", low=1)
    overlays: int = field(4, "test scenes shown for each condition", low=0)

    @functools.cached_property
    def decoders(self) -> tuple[SegmentationMethod, ...]:
        """Return the methods, read and checked."""
        found = []
        for name, entry in self.methods.items():
            where = f"methods.{name}"
            if not isinstance(entry, Mapping):
                raise ConfigError(
                    f"{where} is {short(entry)}; give a dict, as {{'norm': 'domino'}}."
                )
            made = read(SegmentationMethod, {"name": name, **entry}, f"{where}.")
            found.append(made)
        if not found:
            raise ConfigError("methods is empty; give at least one decoder.")
        return tuple(found)

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        wrong = [
            d for d, text in self.descriptions.items() if not isinstance(text, str) or not text
        ]
        if wrong:
            return f"descriptions.{wrong[0]} is no text; say how such an image is described."
        told = any(method.uses_domain for method in self.decoders)
        if told and len(self.descriptions) < 2:
            return "descriptions has fewer than two domains, so W could not differ; add some."
        return ""
