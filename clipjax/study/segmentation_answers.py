"""What a trained decoder answers on test images: whole ones, or windows that slide over them."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from clipjax.evaluate.segmentation import enlarged, slide
from clipjax.study.segmentation_config import SegmentationMethod
from clipjax.study.segmentation_maps import Encoded
from clipjax.study.segmentation_trainer import Trainer

PyTree = Any
WINDOWS = 8  # the most that are answered at a time
Answered = Iterator[tuple[np.ndarray, np.ndarray]]


def answered(
    trainer: Trainer, method: SegmentationMethod, params: PyTree | None, test: Encoded
) -> Answered:
    """Yield the mask of each test image, and the answers uint8 [seeds, H, W] of its size.

    `params` are stacked over seeds; a method without any answers all alike, by the teacher, who
    sees images whole. Logits are resized to the masks, never masks to them.
    """
    data, seeds = trainer.plan.config.data, len(trainer.plan.config.seeds)
    if params is None:
        found = trainer.plan.teacher.answers(test.source)
        return ((mask, np.stack([answer] * seeds)) for mask, answer in found)
    if data.window:
        return _windows(trainer, method, params, test, data.window, data.strides)
    return _whole(trainer, method, params, test)


def _whole(trainer: Trainer, method: SegmentationMethod, params: PyTree, test: Encoded) -> Answered:
    same = test.masks is not None and isinstance(test.masks, np.ndarray)
    answer = trainer.answers(method, logits=not same)
    for number, (rows, masks) in enumerate(test.batches()):
        size = masks[0].shape if same else trainer.plan.data.tested
        real = np.arange(len(rows["embedding"])) < len(masks)  # W is exchanged among these alone
        rows = rows | {"weight": real.astype(np.float32)}
        seen = np.asarray(answer(params, rows, jax.random.key(number), size))
        for place, mask in enumerate(masks):
            found = seen[:, place]
            yield mask, found if same else _classes(found, mask.shape)


def _windows(
    trainer: Trainer,
    method: SegmentationMethod,
    params: PyTree,
    test: Encoded,
    window: tuple[int, int],
    stride: tuple[int, int],
) -> Answered:
    answer = trainer.answers(method.unshuffled, logits=True)
    # A batch holds windows of one image: another image's W comes from the next one.
    shift = 1 if method.control == "shuffled" else 0
    for index in range(len(test)):
        example = test.source[index]
        about = test.about(np.array([index])) | {
            "embedding": test.embedding[[(index + shift) % len(test)]]
        }

        def seen(parts: np.ndarray, about=about) -> np.ndarray:
            rows = {key: np.repeat(value, len(parts), axis=0) for key, value in about.items()}
            return answer(params, {"inputs": parts, **rows}, jax.random.key(0), window)

        found = slide(seen, example.image, window, stride, min(WINDOWS, test.most))
        yield example.mask, _classes(found, example.mask.shape)


def _classes(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the likeliest classes at a mask's size, uint8 [seeds, *size]."""
    logits = logits if logits.shape[-3:-1] == size else enlarged(logits, size)
    return logits.argmax(axis=-1).astype(np.uint8)
