"""CLIP's image preprocessing: RGB, resize (bicubic), centre crop, rescale, normalise.

The resize is PIL's, as in the reference (transformers' PIL-backed processor on a picture that was
turned upright): other resizers move accuracy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from clipjax.data.images.decode import check_pixels, decode, to_rgb
from clipjax.data.images.depth import scaled_array
from clipjax.errors import CheckpointError, DataError
from clipjax.io import write_json
from clipjax.io.texts import decoded

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """The rules of a model's `preprocessor_config.json`. Frozen, so that it can key a cache.

    Attributes:
      size: side of the square that the model sees, in pixels.
      resize: what is resized to before the crop: the shorter side (int), exactly (height, width),
        None for nothing, or "size" for a shorter side of `size`.
      mean: subtracted from each channel after rescaling.
      std: divides each channel.
      resample: PIL's number of the filter; 3 is bicubic.
      rescale: factor on uint8 values.
      decoder: "fast", or "reference" for PIL alone; the same pixels.
    """

    size: int = 224
    resize: int | tuple[int, int] | str | None = "size"
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    resample: int = 3
    rescale: float = 1 / 255
    decoder: str = "fast"

    def crop(self, image: bytes | np.ndarray, name: str = "image") -> np.ndarray:
        """An encoded image or uint8 array [H, W, 3] to the model's view, uint8 [size, size, 3].

        Files are turned upright as their EXIF orientation says; transparent parts become white;
        a picture smaller than the crop is framed in black. Grey arrays [H, W], of more bits or of
        floats too, are scaled as grey files are (`clipjax.data.images.depth`).

        Raises:
          ConfigError: an unknown `decoder`.
          DataError: bytes that cannot be decoded whole, or a picture that is too large, before or
            after the resize; the message holds `name`.
        """
        if isinstance(image, np.ndarray):
            pixels = _from_array(image, name)
        else:
            pixels = decode(image, name, self.decoder)
        width, height = self._resized(pixels.shape[1], pixels.shape[0])
        try:
            check_pixels(width, height)
        except ValueError as error:
            raise DataError(
                f"{name} is too long and narrow: resized it would have {error}; remove it."
            ) from None
        if pixels.shape[1::-1] != (width, height):
            from PIL import Image

            picture = Image.fromarray(pixels).resize((width, height), resample=self.resample)
            pixels = np.asarray(picture)
        return _centre(pixels, self.size)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture before the crop."""
        if self.resize is None:
            return width, height
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        edge, short = (self.size if self.resize == "size" else self.resize), min(width, height)
        # The longer side is cut to whole pixels, not rounded, as torchvision does.
        if width == short:
            return edge, int(edge * height / short)
        return int(edge * width / short), edge

    def with_size(self, size: int) -> Preprocess:
        """The same rules for another side of the square; the resize rule scales with it."""
        if size == self.size:
            return self
        scale = lambda edge: round(edge * size / self.size)
        resize = self.resize
        if isinstance(resize, int):
            resize = scale(resize)
        elif isinstance(resize, tuple):
            resize = (scale(resize[0]), scale(resize[1]))
        return dataclasses.replace(self, size=size, resize=resize)

    def normalize(self, pixels: Any) -> Any:
        """uint8 [..., 3] to the float32 range the model was trained on; numpy or jax arrays."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (pixels.astype(np.float32) * np.float32(self.rescale) - mean) / std


def _centre(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle size x size of [H, W, 3]; what lies outside is black."""
    height, width = pixels.shape[:2]
    if height < size or width < size:
        frame = np.zeros((max(height, size), max(width, size), 3), np.uint8)
        # Rounded up, as in the reference.
        top, left = -((height - frame.shape[0]) // 2), -((width - frame.shape[1]) // 2)
        frame[top : top + height, left : left + width] = pixels
        pixels = frame
        height, width = pixels.shape[:2]
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def _from_array(image: np.ndarray, name: str) -> np.ndarray:
    """Grey or colour to uint8 [H, W, 3]."""
    from PIL import Image

    try:
        if not image.size:
            raise ValueError("empty")
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        if image.ndim == 2:
            image = scaled_array(image)[0]
        elif image.ndim != 3 or image.dtype != np.uint8:  # of less Pillow makes something
            raise TypeError("neither uint8 colour nor grey")
        return np.asarray(to_rgb(Image.fromarray(image)))
    except (ValueError, TypeError) as error:
        shape = ", ".join(map(str, image.shape))
        raise DataError(
            f"{name} is an array that is no image ({image.dtype} [{shape}]: {error}); give uint8 "
            "[H, W, 3] of 0 to 255, or grey [H, W]."
        ) from None


def load_preprocess(directory: str | os.PathLike) -> Preprocess:
    """Reads `preprocessor_config.json` of a model directory (or `processor_config.json`).

    Raises:
      CheckpointError: the file is missing, damaged, or asks for what clipjax does not do: pictures
        of several shapes, which no batch can hold, a cap on the longer side, or padding.
    """
    path, data = _read_rules(pathlib.Path(directory))
    try:
        return _rules(data)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{path} has rules that clipjax cannot follow ({reason}): it needs a resize by "
            "shortest_edge or to height and width, and a square crop_size."
        ) from None


def _read_rules(directory: pathlib.Path) -> tuple[pathlib.Path, dict]:
    path, nested = directory / "preprocessor_config.json", directory / "processor_config.json"
    if not path.exists() and nested.exists():  # as transformers' CLIPProcessor saves it since v5
        path = nested
    try:
        data = json.loads(decoded(path.read_bytes(), str(path), CheckpointError))
        return path, data["image_processor"] if path == nested else dict(data)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; copy it from the model's repository."
        ) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again.") from None
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path} describes no image processor; download it again.") from None


def _rules(data: dict) -> Preprocess:
    """The dict of a preprocessor_config.json; ValueError, KeyError or TypeError if it is odd."""
    if data.get("do_pad"):
        raise ValueError("do_pad")
    resize = _resize_rule(data.get("size", 224)) if data.get("do_resize", True) else None
    if data.get("do_center_crop", True):
        height, width = _height_width(data.get("crop_size", 224))
    elif isinstance(resize, tuple):
        height, width = resize
    else:
        raise ValueError("no crop after a resize that keeps the aspect ratio")
    if height != width:
        raise ValueError(f"pictures of {height} x {width}")
    plain = ((0.0,) * 3, (1.0,) * 3)
    given = (data.get("image_mean", OPENAI_MEAN), data.get("image_std", OPENAI_STD))
    mean, std = given if data.get("do_normalize", True) else plain
    return Preprocess(
        size=height,
        resize=resize,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        resample=int(data.get("resample", 3)),
        rescale=float(data.get("rescale_factor", 1 / 255)) if data.get("do_rescale", True) else 1.0,
    )


def _height_width(size: int | list | dict) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = (size["height"], size["width"]) if isinstance(size, dict) else size
    return int(height), int(width)


def _resize_rule(size: int | list | dict) -> int | tuple[int, int]:
    """A number is the shorter side: CLIP's processor does not squeeze (default_to_square)."""
    if isinstance(size, int):
        return size
    if isinstance(size, dict) and size.get("longest_edge"):
        raise ValueError("a cap on the longer side")
    if isinstance(size, dict) and size.get("shortest_edge"):
        return int(size["shortest_edge"])
    return _height_width(size)


def save_preprocess(directory: str | os.PathLike, preprocess: Preprocess) -> None:
    """Writes `preprocessor_config.json` as transformers' CLIPImageProcessor reads it."""
    size, resize = preprocess.size, preprocess.resize
    edge = size if resize in ("size", None) else resize
    exact = isinstance(edge, tuple)
    data = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": resize is not None,
        "size": {"height": edge[0], "width": edge[1]} if exact else {"shortest_edge": edge},
        "resample": preprocess.resample,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": preprocess.rescale,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    write_json(pathlib.Path(directory) / "preprocessor_config.json", data)
