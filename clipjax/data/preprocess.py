"""CLIP's image preprocessing: RGB, resize the shorter side (bicubic), centre crop, normalise.

PIL does the resizing, as in the reference: other resizers move accuracy.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
from typing import Any

import numpy as np

from clipjax.errors import CheckpointError, DataError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """What a model's `preprocessor_config.json` asks for. Frozen, so that it can key a cache."""

    size: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    resample: int = 3  # PIL's number of bicubic

    def crop(self, image: bytes | np.ndarray, name: str = "image") -> np.ndarray:
        """An encoded image or uint8 array [H, W, 3] to the model's view, uint8 [size, size, 3].

        Transparent parts become white; EXIF orientation is ignored, as in the reference.

        Raises:
          DataError: bytes that no image decoder understands; the message holds `name`.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            picture = (
                Image.fromarray(image)
                if isinstance(image, np.ndarray)
                else Image.open(io.BytesIO(image))
            )
            picture = _to_rgb(picture)
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{name} cannot be read as an image ({error}); replace or remove it."
            ) from None
        if picture.size != (self.size, self.size):
            picture = self._resize_and_crop(picture)
        return np.asarray(picture, np.uint8)

    def _resize_and_crop(self, picture):
        width, height = picture.size
        short = min(width, height)
        new = (int(self.size * width / short), int(self.size * height / short))
        picture = picture.resize(new, resample=self.resample)
        left, top = (new[0] - self.size) // 2, (new[1] - self.size) // 2
        return picture.crop((left, top, left + self.size, top + self.size))

    def normalize(self, pixels: Any) -> Any:
        """uint8 [..., 3] to the float32 range the model was trained on; numpy or jax arrays."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (pixels.astype(np.float32) / 255 - mean) / std


def _to_rgb(picture):
    """Any PIL mode to RGB; transparency is painted on white."""
    from PIL import Image

    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def load_preprocess(directory: str | os.PathLike) -> Preprocess:
    """Reads `preprocessor_config.json` of a model directory.

    Raises:
      CheckpointError: the file is missing, damaged or asks for a rule clipjax does not know.
    """
    path = pathlib.Path(directory) / "preprocessor_config.json"
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; copy it from the model's repository."
        ) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again.") from None
    crop = data.get("crop_size", 224)
    size = data.get("size", 224)
    crop = crop["height"] if isinstance(crop, dict) else crop
    shortest = size.get("shortest_edge", size.get("height")) if isinstance(size, dict) else size
    if shortest != crop:
        raise CheckpointError(
            f"{path} resizes to {shortest} and crops to {crop}; clipjax knows equal sizes only."
        )
    return Preprocess(
        size=crop,
        mean=tuple(data.get("image_mean", OPENAI_MEAN)),
        std=tuple(data.get("image_std", OPENAI_STD)),
        resample=data.get("resample", 3),
    )


def save_preprocess(directory: str | os.PathLike, preprocess: Preprocess) -> None:
    """Writes `preprocessor_config.json` as transformers' CLIPImageProcessor reads it."""
    data = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocess.size},
        "resample": preprocess.resample,
        "do_center_crop": True,
        "crop_size": {"height": preprocess.size, "width": preprocess.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    path = pathlib.Path(directory) / "preprocessor_config.json"
    path.write_text(json.dumps(data, indent=2) + "\n")
