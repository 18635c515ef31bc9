"""CLIP's image preprocessing: RGB, resize (bicubic), centre crop, rescale, normalise.

The resize is PIL's, as in the reference (transformers' PIL-backed processor on an upright picture):
other resizers change accuracy.
"""

import dataclasses
import os
import pathlib
from typing import Any, Self

import numpy as np
from PIL import Image

from clipjax.data.images.decode import check_pixels, decode, to_rgb
from clipjax.data.images.depth import scaled_array
from clipjax.errors import CheckpointError, DataError
from clipjax.io import write_json
from clipjax.model.hf.weights import is_timm, read_json

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WARPED = 384  # pixels from which a ConvNext processor cuts nothing off
HALF = (0.5, 0.5, 0.5)  # mean and standard deviation of a ViT's processor that names none
_NAMES = ("preprocessor", "processor")  # of the files that hold a model's rules


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """The rules of a model's `preprocessor_config.json`. Frozen, so that it can key a cache."""

    size: int = 224  # side of the model's square input, in pixels
    # Before the crop: the shorter side to this length ("size" for `size`), both to exactly
    # (height, width), or no resize.
    resize: int | tuple[int, int] | str | None = "size"
    mean: tuple[float, ...] = OPENAI_MEAN  # subtracted from each channel after rescaling
    std: tuple[float, ...] = OPENAI_STD  # divides each channel
    resample: int = 3  # PIL's number of the filter: bicubic
    rescale: float = 1 / 255  # factor on uint8 values
    decoder: str = "fast"  # or "reference" for PIL alone; the same pixels
    even: bool = False  # half of an odd rest is rounded to an even number, as by torchvision

    def crop(self, image: bytes | np.ndarray, name: str = "image") -> np.ndarray:
        """Crop an encoded image or array to the model's view, uint8 [size, size, 3].

        Files are decoded as by `clipjax.data.images.decode.decode`, with its errors. Arrays are
        uint8 [H, W, 3], or grey [H, W] of any number type (`clipjax.data.images.depth`). A picture
        smaller than the crop is framed in black; one that is too large after the resize is a
        DataError, which holds the `name`.
        """
        array = isinstance(image, np.ndarray)
        pixels = _from_array(image, name) if array else decode(image, name, self.decoder)
        width, height = self._resized(pixels.shape[1], pixels.shape[0])
        try:
            check_pixels(width, height)
        except ValueError as error:
            fault = f"{name} is too long and narrow: resized it would have {error}"
            raise DataError(f"{fault}; remove it.") from None
        if pixels.shape[1::-1] != (width, height):
            picture = Image.fromarray(pixels)
            pixels = np.asarray(picture.resize((width, height), resample=self.resample))
        return _centre(pixels, self.size, self.even)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize is None:
            return width, height
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        edge, short = (self.size if self.resize == "size" else self.resize), min(width, height)
        # The longer side is truncated, not rounded, as in torchvision.
        if width == short:
            return edge, int(edge * height / short)
        return int(edge * width / short), edge

    def with_size(self, size: int) -> Self:
        """Return the rules for another side of the square; the resize rule scales with it."""
        resize, scale = self.resize, lambda edge: round(edge * size / self.size)
        if isinstance(resize, int):
            resize = scale(resize)
        elif isinstance(resize, tuple):
            resize = tuple(map(scale, resize))
        return dataclasses.replace(self, size=size, resize=resize)

    def normalize(self, pixels: Any) -> Any:
        """Map uint8 [..., 3] to the float32 range of training; numpy or jax arrays."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (pixels.astype(np.float32) * np.float32(self.rescale) - mean) / std


def _centre(pixels: np.ndarray, size: int, even: bool) -> np.ndarray:
    """Crop the middle size x size of [H, W, 3]; outside of it is black."""
    pad = [max(0, size - side) for side in pixels.shape[:2]]
    if any(pad):  # rounded up at the top and left, as in the reference
        pixels = np.pad(pixels, [*((-(-p // 2), p // 2) for p in pad), (0, 0)])
    rests = [side - size for side in pixels.shape[:2]]
    top, left = (round(rest / 2) if even else rest // 2 for rest in rests)
    return pixels[top : top + size, left : left + size]


def _from_array(image: np.ndarray, name: str) -> np.ndarray:
    try:
        if not image.size:
            raise ValueError("empty")
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        if image.ndim == 2:
            image = scaled_array(image)[0]
        elif image.ndim != 3 or image.dtype != np.uint8:
            raise TypeError("neither uint8 colour nor grey")
        return np.asarray(to_rgb(Image.fromarray(image)))
    except (ValueError, TypeError) as error:
        fault = f"is an array that is no image ({image.dtype} {list(image.shape)}: {error})"
        raise DataError(f"{name} {fault}; give uint8 [H, W, 3] or grey [H, W].") from None


def load_preprocess(directory: str | os.PathLike) -> Preprocess:
    """Read `preprocessor_config.json` of a model directory (or `processor_config.json`).

    Without either the rules are those of timm's config.json. CheckpointError if it is missing,
    damaged, or has rules that clipjax does not support.
    """
    path, nested = (pathlib.Path(directory) / f"{name}_config.json" for name in _NAMES)
    if not path.exists() and nested.exists():  # as transformers' CLIPProcessor saves it since v5
        path = nested
    config = path.with_name("config.json")
    if not path.exists() and config.exists() and is_timm(read_json(config)):
        path = config
    data = read_json(path)
    data = data.get("image_processor") if path == nested else data
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} describes no image processor; download it again.")
    try:
        return _timm_rules(data) if path == config else _rules(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        fault = f"{path} has rules that clipjax cannot follow ({reason})"
        needs = "it needs a resize by shortest_edge or to height and width, and a square crop_size"
        raise CheckpointError(f"{fault}: {needs}.") from None


def _rules(data: dict) -> Preprocess:
    """Parse a preprocessor_config.json; ValueError, KeyError or TypeError if it is unsupported."""
    if data.get("do_pad"):
        raise ValueError("do_pad")
    named = data.get("image_processor_type") or data.get("feature_extractor_type") or ""
    if vit := named.startswith("ViT"):  # what ViTImageProcessor assumes, and CLIP's does not
        size = data.get("size", 224)
        square = {"size": [size, size] if isinstance(size, int) else size, "do_center_crop": False}
        data = {"image_mean": HALF, "image_std": HALF, "resample": 2} | data | square
    if named.startswith("ConvNext"):  # ResNets' too
        data = _of_convnext(data)
    resize = _resize_rule(data.get("size", 224)) if data.get("do_resize", True) else None
    if vit and resize is None:
        raise ValueError("do_resize is False, without a crop")
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


def _of_convnext(data: dict) -> dict:
    """Say in CLIP's words what a ConvNextImageProcessor does."""
    size = data.get("size", {"shortest_edge": 384})
    edge = size if isinstance(size, int) else int(size["shortest_edge"])
    if not data.get("do_resize", True):
        raise ValueError("do_resize is False, without a crop")
    if edge < WARPED:
        share = data.get("crop_pct") or 224 / 256
        sizes = {"size": {"shortest_edge": int(edge / share)}, "crop_size": edge}
    else:
        sizes = {"size": [edge, edge], "do_center_crop": False}
    return (
        {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "do_center_crop": True}
        | {key: value for key, value in data.items() if key != "do_center_crop"}
        | sizes
    )


def _timm_rules(data: dict) -> Preprocess:
    """Parse timm's config.json: what it does with images for evaluation, at the size of training.

    Errors as of `_rules`.
    """
    data = data.get("pretrained_cfg") or data
    _, height, width = data.get("input_size", (3, 224, 224))
    names = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by PIL's numbers
    if (name := data.get("interpolation", "bicubic")) not in names:
        raise ValueError(f"interpolation {name!r}")
    if (mode := data.get("crop_mode", "center")) not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode!r}")
    share = data.get("crop_pct") or 0.875
    edges = tuple(int(side / share) for side in (height, width))
    if height != width:
        raise ValueError(f"pictures of {height} x {width}")
    return Preprocess(
        size=height,
        resize=edges if mode == "squash" else edges[0],
        mean=tuple(map(float, data.get("mean", IMAGENET_MEAN))),
        std=tuple(map(float, data.get("std", IMAGENET_STD))),
        resample=names.index(name),
        even=True,
    )


def _height_width(size: int | list | dict) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = (size["height"], size["width"]) if isinstance(size, dict) else size
    return int(height), int(width)


def _resize_rule(size: int | list | dict) -> int | tuple[int, int]:
    """Return the shorter side, or (height, width); a bare number is the shorter side."""
    if isinstance(size, dict) and size.get("longest_edge"):
        raise ValueError("a cap on the longer side")
    if isinstance(size, dict) and size.get("shortest_edge"):
        return int(size["shortest_edge"])
    return size if isinstance(size, int) else _height_width(size)


def save_preprocess(directory: str | os.PathLike, preprocess: Preprocess) -> None:
    """Write `preprocessor_config.json` as transformers' CLIPImageProcessor reads it."""
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
