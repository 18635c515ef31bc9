"""The typed config of a segmentation run: images with masks, models of maps, decoders, Domino."""

import dataclasses
import functools
from collections.abc import Mapping

from clipjax.errors import ConfigError
from clipjax.study.accumulation import accumulation_problem
from clipjax.study.diffusion_config import DiffusionBackbone
from clipjax.study.fields import field, meant, read, short
from clipjax.study.mask_data import MaskData
from clipjax.study.mask_teacher_config import MaskTeacher, teacher_problem
from clipjax.study.training import seed_field

SEGMENTATION = "segmentation"
GROUPS = 8  # of channels, where a norm has them
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
    """A decoder on maps of the backbone, and what it is told of the domain."""

    name: str
    decoder: str = field(
        "linear",
        "mlp: SegFormer's; pup: convolutions that upsample; fpn: of several levels; mask: "
        "Segmenter's; aspp: DeepLabv2's dilated convolutions; zero_shot: the teacher's own "
        "answers, and nothing trains",
        known=("linear", "mlp", "pup", "fpn", "mask", "aspp", "zero_shot"),
    )
    classifier: str = field(
        "learned",
        "of decoder=aspp; text: the teacher's texts of classes, which never train: MaskCLIP+",
        known=("learned", "text"),
    )
    labels: str = field(
        "masks",
        "what it trains on; teacher: answers of the CLIP that `teacher` names, everywhere or at "
        "pixels of teacher.unseen classes",
        known=("masks", "teacher"),
    )
    norm: str = field(
        "plain", "domino: scale and shift of its norms are made of W", known=("plain", "domino")
    )
    prompt: str = field(
        "none",
        "what W does to the class tokens of decoder=mask, or to the prompts of a diffusion model",
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
        "layer",
        "what norms standardise over: layer: the channels of a place; instance: the places of an "
        "image; group: both, of some channels; batch: the places of a batch in training, and in "
        "tests those of the training set",
        known=("instance", "group", "layer", "batch"),
    )

    lr: float = field(0.0, "learning rate at its start; 0: the run's", low=0)

    @property
    def kind(self) -> tuple:
        """Return what differs from one compiled program to another."""
        own = self.decoder, self.stats, self.classifier, self.labels
        return (*own, self.norm == "domino", self.prompt != "none")

    @property
    def unshuffled(self) -> "SegmentationMethod":
        """Return the method with W as it is given, where `shuffled` would exchange it."""
        plain = self.control != "shuffled"
        return self if plain else dataclasses.replace(self, control="none")

    @property
    def uses_domain(self) -> bool:
        """Return whether it reads W."""
        return self.norm == "domino" or self.prompt != "none"

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.decoder == "zero_shot":
            for each in dataclasses.fields(self)[2:]:
                if (value := getattr(self, each.name)) != each.default:
                    told = f"{each.name}={value} has no effect on decoder=zero_shot"
                    return f"{told}, of which nothing trains; leave it out."
        if self.classifier == "text" and self.decoder != "aspp":
            return "classifier=text needs decoder=aspp, which is as wide as the texts."
        if self.decoder == "mask" and self.stats != "layer":
            return "stats has no effect on decoder=mask, whose norms are over channels."
        for name, usual in (("control", "none"), ("scale", 1.0)):
            if not self.uses_domain and (value := getattr(self, name)) != usual:
                return f"{name}={value} has no effect without norm=domino, or a prompt."
        return ""


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Training with a share of another domain's images in place of the source's, by share."""

    shares: tuple[float, ...] = field(
        (),
        "of the other domain's images, each trained with beside the methods; none: no such rows",
        fits=lambda value: all(0 <= x <= 1 for x in value) and len(set(value)) == len(value),
        give="numbers from 0 to 1, each once",
    )
    domain: str = field("tinted", "the other domain")
    method: str = field("", "which method trains; none: the first")


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """How well images are segmented in domains that no training image shows."""

    experiment: str = field(SEGMENTATION, "name of the run", known=(SEGMENTATION,))
    model: str = field(
        "tiny",
        "what maps are of: a CLIP, DINOv2 or a ResNet, of timm too; a Hub id or a directory in "
        "Hugging Face layout",
    )
    domain_model: str = field(
        "", "the CLIP that reads W off images, and texts of classes; none: model, where it is one"
    )
    levels: tuple[int, ...] = field(
        (),
        "blocks, or stages of a ResNet, whose maps decoders get, from 1; none: of model=tiny 4 and "
        "6, else the last, and with decoder=fpn those at the quarters of the depth",
    )
    output_stride: int = field(
        0, "of a ResNet: 8 or 16 pixels between places, by dilated stages as DeepLab's; 0: its own"
    )
    maps: str = field(
        "auto",
        "cached: computed once; live: in every step; auto: cached where they fit into half of the "
        "memory, and images are whole and unchanged",
        known=("auto", "cached", "live"),
    )
    backbone: str = field(
        "frozen",
        "free: model trains with the decoder, up to its last level; what reads W stays as it is",
        known=("frozen", "free"),
    )
    factor: float = field(
        0.1,
        "on the rate, of a free backbone",
        fits=lambda value: 0 < value <= 10,
        give="a number above 0, up to 10",
    )
    diffusion: DiffusionBackbone = DiffusionBackbone()
    seeds: tuple[int, ...] = seed_field((0, 1, 2), "random seeds")
    data: MaskData = MaskData()
    mixing: Mixing = Mixing()
    teacher: MaskTeacher = MaskTeacher()
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
    accumulate: int = field(
        1,
        "microbatches of a step: its result in the memory of one; W is shuffled within each",
        low=1,
    )
    lr: float = field(3e-3, "learning rate of AdamW, at its start", low=0)
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

    @property
    def mixed(self) -> str:
        """Return the name of the method that trains on mixtures."""
        return self.mixing.method or self.decoders[0].name

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        wrong = [
            d for d, text in self.descriptions.items() if not isinstance(text, str) or not text
        ]
        if wrong:
            return f"descriptions.{wrong[0]} is no text; say how such an image is described."
        if self.backbone == "frozen" and self.factor != Segmentation.factor:
            return f"factor={self.factor} has no effect on a frozen backbone; take backbone=free."
        if self.backbone == "free" and self.diffusion.model:
            return "backbone=free is of model, and diffusion.model has its own; give unet=free."
        if self.backbone == "free" and self.maps == "cached":
            return "maps=cached keeps what a free backbone changes in every step; take maps=auto."
        if self.diffusion.model:
            for name in ("levels", "output_stride", "last", "maps"):
                usual = getattr(Segmentation, name, ())
                if (value := getattr(self, name)) != usual:
                    told = f"{name}={value} has no effect with diffusion.model"
                    return f"{told}, whose maps are VPD's, made in every step; give {name}={usual}."
        elif wrong := [m for m in self.decoders if m.prompt != "none" and m.decoder != "mask"]:
            told = f"methods.{wrong[0].name}.prompt={wrong[0].prompt} needs decoder=mask, or"
            return (
                f"{told} diffusion.model: the logits of decoder={wrong[0].decoder} all move alike, "
                "so no answer would change."
            )
        if all(method.decoder == "zero_shot" for method in self.decoders):
            for name in ("backbone", "levels", "output_stride", "accumulate", "class_weights"):
                if (value := getattr(self, name)) != getattr(Segmentation, name, ()):
                    return f"{name}={value} has no effect where decoder=zero_shot is all there is."
        grouped = [m for m in self.decoders if m.stats == "group" and m.decoder != "linear"]
        if grouped and self.width % GROUPS:
            told = f"methods.{grouped[0].name}.stats=group cuts width={self.width} into {GROUPS}"
            return f"{told} groups of channels; give a multiple of {GROUPS}."
        joining = [method.name for method in self.decoders if method.decoder == "fpn"]
        if joining and len(self.levels) == 1:
            told = f"methods.{joining[0]}.decoder=fpn joins maps of several levels"
            return f"levels is {self.levels}, and {told}; give two or more, or none."
        names = [method.name for method in self.decoders]
        if self.mixing.method and self.mixing.method not in names:
            told = f"mixing.method={self.mixing.method} is no method; known: {', '.join(names)}."
            return told + meant(self.mixing.method, names)
        usual = Mixing()
        for name in ("domain", "method"):
            if not self.mixing.shares and getattr(self.mixing, name) != getattr(usual, name):
                return (
                    f"mixing.{name} has no effect without mixing.shares; give some, as (0.0, 0.5)."
                )
        told = any(method.uses_domain for method in self.decoders)
        if told and len(self.descriptions) < 2:
            return "descriptions has fewer than two domains, so W could not differ; add some."
        return teacher_problem(self) or accumulation_problem(self)
