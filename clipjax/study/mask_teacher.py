"""A CLIP that segments without training (MaskCLIP): its answers, and labels for others' training.

MaskCLIP+ (Zhou et al. 2022, arXiv 2112.01071) trains on such labels in place of masks: on its
answers everywhere, or where a class without masks is.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.masks import MaskExample, MaskSource
from clipjax.log.bars import Bar
from clipjax.model.decoders import resize_map
from clipjax.model.maps import zero_shot_maps
from clipjax.study.mask_teacher_config import MaskTeacher
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.segmentation_data import Masked
from clipjax.study.segmentation_models import Reader, open_reader

PIXELS = 1 << 20  # of images that are answered at a time


class Teacher:
    """A CLIP's zero-shot segmentation.

    Args:
      name: of the model.
      reader: the CLIP.
      texts: float32 [K, P] of length 1, of the classes.
      unseen: bool [K], the classes whose pixels it labels.
      about: how it answers.
    """

    def __init__(
        self, name: str, reader: Reader, texts: np.ndarray, unseen: np.ndarray, about: MaskTeacher
    ):
        self.name, self.texts, self.unseen = name, texts, unseen
        self.patch = reader.clip.vision.patch_size
        how = {"last": about.last, "denoise": about.denoise, "smooth": about.smooth}
        logits = zero_shot_maps(reader.clip.vision, **how)

        @functools.partial(jax.jit, static_argnums=3)
        def answer(params, pixels, texts, size):
            sides = [max(1, round(side / self.patch)) * self.patch for side in pixels.shape[1:3]]
            seen = reader.preprocess.normalize(resize_map(pixels.astype(jnp.float32), sides))
            found = resize_map(logits(params, seen, texts, reader.scale), size)
            return found.argmax(axis=-1).astype(jnp.uint8)

        self._answer = lambda *given: np.asarray(answer(reader.params, *given))

    def answers(
        self, source: MaskSource, texts: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each example's mask, and the number of the likeliest text at every pixel of it.

        Both uint8 [H, W], or a `NoMask` and that; texts are those of all classes by default. Images
        are seen whole, resized where the model's patches do not divide their sides.
        """
        texts = self.texts if texts is None else texts
        for examples in _alike(source):
            pixels = np.stack([example.image for example in examples])
            most = min(_at_a_time(pixels.shape[1:3]), len(source))  # one shape
            filled = np.concatenate([pixels, np.repeat(pixels[:1], most - len(pixels), axis=0)])
            found = self._answer(filled, texts, examples[0].mask.shape)
            yield from zip((example.mask for example in examples), found, strict=False)


def _at_a_time(size: tuple[int, int]) -> int:
    return max(1, min(50, PIXELS // (size[0] * size[1])))


def _alike(source: MaskSource) -> Iterator[list[MaskExample]]:
    """Yield examples in order, together those that follow each other and are of one size."""
    held: list[MaskExample] = []
    shapes = lambda example: (example.image.shape, example.mask.shape)
    for i in range(len(source)):
        example = source[i]
        full = held and len(held) == _at_a_time(held[0].image.shape[:2])
        if held and (full or shapes(example) != shapes(held[0])):
            yield held
            held = []
        held.append(example)
    yield held


def open_teacher(config: Segmentation, data: Masked, reader: Reader) -> Teacher | None:
    """Open the teacher of a run's methods; None where none reads it.

    ConfigError: a model with one tower alone.
    """
    about, methods = config.teacher, config.decoders
    reads = lambda m: "teacher" == m.labels or m.decoder == "zero_shot" or m.classifier == "text"
    if not any(map(reads, methods)):
        return None
    if about.model:
        reader = open_reader(config, data.classes, "teacher.model")
    texts = reader.texts
    if about.names:
        means = [reader.weights(about.texts(name)).mean(axis=0) for name in data.classes]
        texts = np.stack([mean / np.linalg.norm(mean) for mean in means])
    unseen = np.array([not about.unseen or name in about.unseen for name in data.classes])
    name = about.model or config.domain_model or config.model
    return Teacher(name, reader, texts, unseen, about)


def labels_of(teacher: Teacher, source: MaskSource) -> list[np.ndarray]:
    """Return labels of training images, uint8 [H, W] each: the teacher's, of unseen classes.

    Where some classes have masks, these stay as they are, and pixels of the others get the
    likeliest of the others: that such a class is there is known, which one is not. Where none has,
    no mask is read.
    """
    unseen = np.flatnonzero(teacher.unseen).astype(np.uint8)
    hidden, found = np.isin(np.arange(256), unseen), []
    with Bar(len(source), f"labels of {source.domain} by {teacher.name}", "image") as bar:
        for mask, answer in teacher.answers(source, teacher.texts[unseen]):
            own = unseen[answer]
            found.append(own if teacher.unseen.all() else np.where(hidden[mask], own, mask))
            bar.update(1)
    return found


def told_of_labels(teacher: Teacher | None, config: Segmentation, measured: bool = True) -> str:
    """Say on which labels methods trained that had no masks, without a full stop; "" for none.

    `measured` says whether some tested images have masks.
    """
    names: Sequence[str] = [m.name for m in config.decoders if m.labels == "teacher"]
    if not names or teacher is None:
        return ""
    about, who = config.teacher, ", ".join(names)
    told = f"{who}: trained on labels that {teacher.name} gave the training images by texts alone"
    if about.unseen:
        told += f" at pixels of {', '.join(about.unseen)}, and on masks of the other classes"
    else:
        told += ", on no true mask"
    if about.self_training < 1:
        told += f"; after {100 * about.self_training:g} % of the steps on its own answers there"
    return told + "; masks of tests measure alone" * measured
