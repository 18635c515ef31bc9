"""How a CLIP labels the training images of a segmentation run (MaskCLIP): its config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.study.fields import field, meant, share_field


@dataclasses.dataclass(frozen=True)
class MaskTeacher:
    """A CLIP whose zero-shot segmentation stands in place of masks (Zhou et al. 2022)."""

    model: str = field("", "which CLIP; none: domain_model, or model where that is none")
    names: Mapping = field(
        {}, "class -> a text that names it, or several, whose mean counts; none: its own name"
    )
    last: str = field(
        "value",
        "of its last block; value: without attention's mixing, as MaskCLIP; state: with it",
        known=("state", "value"),
    )
    denoise: float = field(
        0.0,
        "prompt denoising: classes of which no place is that likely are left out, MaskCLIP's code "
        "0.5; 0: none is",
        low=0,
        high=1,
    )
    smooth: bool = field(False, "key smoothing: places whose keys are alike share their answers")
    unseen: tuple[str, ...] = field(
        (), "classes without masks, whose pixels alone the teacher labels; none: it labels all"
    )
    self_training: float = share_field(
        1.0,
        "share of the steps after which the decoder's own answers take the place of the teacher's; "
        "1: never",
    )

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.smooth and self.last != "value":
            return "smooth=True needs last=value, in whose place alone keys are kept."
        for name in self.names:
            if not self.texts(name) or not all(isinstance(x, str) and x for x in self.texts(name)):
                return f"names.{name} is no text, and no tuple of texts; say what the class shows."
        return ""

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts of a class."""
        found = self.names.get(name, name)
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def teacher_problem(config: Any) -> str:
    """Return what of a `Segmentation`'s teacher has no effect, or does not fit; "" for nothing."""
    methods, usual = config.decoders, MaskTeacher()
    taught = any(method.labels == "teacher" for method in methods)
    asked = taught or any(method.decoder == "zero_shot" for method in methods)
    texts = asked or any(method.classifier == "text" for method in methods)
    acts = {"model": texts, "names": texts, "unseen": taught, "self_training": taught}
    for each in dataclasses.fields(MaskTeacher):
        value = getattr(config.teacher, each.name)
        if acts.get(each.name, asked) or value == getattr(usual, each.name):
            continue
        remedy = "labels=teacher" + ", or decoder=zero_shot" * (each.name not in acts)
        return f"teacher.{each.name}={value} has no effect without a method of {remedy}."
    by_name = {method.name: method for method in methods}
    mixing = by_name.get(config.mixed)
    if config.mixing.shares and mixing and "masks" != mixing.labels:
        return f"mixing trains {mixing.name} on masks, and it has labels=teacher; name another."
    if config.mixing.shares and mixing and mixing.decoder == "zero_shot":
        return f"mixing trains {mixing.name}, which has decoder=zero_shot; name another."
    return ""


def masks_reader(config: Any) -> str:
    """Return what of a `Segmentation` trains on masks, in words; "" where nothing does."""
    trained = [method for method in config.decoders if method.decoder != "zero_shot"]
    if on_masks := [method.name for method in trained if method.labels == "masks"]:
        return f"methods.{on_masks[0]}"
    if trained and config.teacher.unseen:
        return f"methods.{trained[0].name}, which has teacher.unseen,"
    return ""


def unknown_class(config: Any, classes: tuple[str, ...]) -> str:
    """Return what is wrong with classes that the teacher's fields name; "" for nothing."""
    for name, given in (("names", config.teacher.names), ("unseen", config.teacher.unseen)):
        if lost := [each for each in given if each not in classes]:
            told = f"teacher.{name} has {lost[0]!r}, which is no class; known: {', '.join(classes)}"
            return f"{told}.{meant(lost[0], classes)}"
    if len(set(config.teacher.unseen)) < len(config.teacher.unseen):
        return "teacher.unseen names a class twice; name each once."
    return ""
