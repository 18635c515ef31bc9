"""A CLIP with its preprocessing: images and texts in, embeddings and zero-shot answers out."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from clipjax.data.features.cache import cached_features
from clipjax.data.features.encode import ImageEncoder
from clipjax.data.given import GivenSource, Image
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import ConfigError, DataError
from clipjax.io import default_cache_dir
from clipjax.model.clip import CLIP, CLIPConfig
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.image_model import ImageConfig, ImageModel
from clipjax.model.text import check_class_weights, class_tokens, class_weights
from clipjax.study.config import Study
from clipjax.study.defaults import MODEL, OWN_PROMPTS, PROMPTS
from clipjax.study.encode import image_encoder, weights_key
from clipjax.study.fields import read
from clipjax.study.model_opened import open_model
from clipjax.study.parts import Encoder

BATCH = 64  # images of one call of the tower


def load(model: str | os.PathLike, **options: Any) -> "Pretrained":
    """Load a CLIP, or an image tower as a supervised ViT, with its preprocessing.

    Args:
      model: "tiny" (embedded), a Hub id ("openai/clip-vit-base-patch32", downloaded once), or a
        directory in Hugging Face layout; of ResNets timm's, too. A ViT, DINOv2 or ResNet has no
        texts: it encodes images, and serves methods that need none.
      options: fields of `clipjax.study.Encoder`: `revision`, `image_size`, `prompts`,
        `class_names`, `compute_dtype`.

    Raises:
      CheckpointError: as `clipjax.load_clip`. ConfigError: an unknown option, or one tower alone.

    >>> clip = load("tiny")
    >>> clip.encode_images([np.zeros((80, 60, 3), np.uint8)]).shape
    (1, 128)
    >>> clip.encode_texts(["a cat", "a picture of the moon"]).shape
    (2, 128)
    """
    encoder = read(Encoder, {"model": os.fspath(model), **options})
    return Pretrained(encoder, open_model(Study(encoder=encoder)))


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Pretrained:
    """A CLIP as it came, made by `clipjax.load`; nothing in it changes."""

    encoder: Encoder  # which model, how it computes, how it names classes
    opened: Mapping[str, Any]  # as `clipjax.study.model_opened.open_model` returns it
    _compiled: dict[int, Callable] = dataclasses.field(default_factory=dict)  # by batch size

    def encode_images(self, images: Sequence[Image], *, cache: bool = True) -> np.ndarray:
        """Encode images, float32 [N, P], rows of length 1.

        Args:
          images: paths, encoded files, PIL images or arrays (uint8 [H, W, 3], grey [H, W]) in a
            list or an array [N, ...]; a folder of files; a pattern, as "scans/*.png".
          cache: keep the embeddings in clipjax's cache folder, as studies do, and read them there.

        Raises:
          DataError: an image that is missing or cannot be read. NonFiniteError: numbers overflow.
        """
        key = weights_key(self.opened["identity"], self.config, self.encoder.compute_dtype)
        return encode_given(
            self._encode, images, self.preprocess, self.config.projection_dim, key if cache else ""
        )

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts, float32 [N, P], rows of length 1; ConfigError of a model without texts."""
        self._check_texts()
        tokens = load_tokenizer(self.opened["model"])(list(texts))
        return np.asarray(class_weights(self._encode_text, np.asarray(tokens)[:, None]))

    def zero_shot(
        self,
        images: Sequence[Image],
        classes: Sequence[str],
        prompts: str | Sequence[str] | None = None,
    ) -> np.ndarray:
        """Return probabilities of classes by their names alone, float32 [N, K].

        Args:
          images: as for `encode_images`.
          classes: K names.
          prompts: a template with {}, several, or the name of a set; by default "a photo of a {}.",
            or those that the embedded model knows.

        >>> load("tiny").zero_shot([np.zeros((64, 64), np.uint8)], ["cat", "moon"]).shape
        (1, 2)
        """
        self._check_texts()
        usual = PROMPTS if self.encoder.model == MODEL else OWN_PROMPTS
        tokenizer = load_tokenizer(self.opened["model"])
        tokens = class_tokens(tokenizer, classes, prompts or self.encoder.prompts or usual)
        weights = class_weights(self._encode_text, tokens)
        check_class_weights(weights, self.opened["model"])
        scale = self.module.apply({"params": self.params}, method="scale")
        return np.asarray(jax.nn.softmax(scale * self.encode_images(images) @ weights.T))

    def _check_texts(self) -> None:
        if self.config.text is None:
            told = f"{self.encoder.model} has no text tower, so it encodes images alone"
            raise ConfigError(f"{told}; load a CLIP for texts and zero-shot.")

    @property
    def module(self) -> CLIP | ImageModel:
        """The towers: `module.apply({"params": clip.params}, pixels, method="encode_image")`."""
        return self.opened["module"]

    @property
    def params(self) -> Any:
        """The parameters, float32."""
        return self.opened["params"]

    @property
    def config(self) -> CLIPConfig | ImageConfig:
        """The sizes of the towers."""
        return self.module.config

    @property
    def preprocess(self) -> Preprocess:
        """How images become pixels: `preprocess.crop(array)` is uint8 [S, S, 3]."""
        return self.opened["preprocess"]

    def _encode(self, batch_size: int) -> Callable[[np.ndarray], jax.Array]:
        """Return the image tower, compiled for batches of a size."""
        if batch_size not in self._compiled:
            parts = self.module, self.params, self.preprocess
            self._compiled[batch_size] = image_encoder(*parts, batch_size)
        return self._compiled[batch_size]

    @functools.cached_property
    def _encode_text(self) -> Callable[[np.ndarray], jax.Array]:
        encode = jax.jit(functools.partial(self.module.apply, method="encode_text"))
        return functools.partial(encode, {"params": self.params})

    def __repr__(self) -> str:
        vision, sides = self.config.vision, (self.preprocess.size, self.config.projection_dim)
        count = sum(x.size for x in jax.tree.leaves(self.params)) / 1e6
        name, size = self.encoder.model, f"{vision.num_hidden_layers} layers, {count:,.1f} M params"
        return f"Pretrained({name!r}, {sides[0]} px -> {sides[1]}, {size})"

    def __deepcopy__(self, memo: Any) -> "Pretrained":
        return self


def encode_given(
    encode: Callable[[int], Callable[[np.ndarray], jax.Array]],
    images: Sequence[Image],
    preprocess: Preprocess,
    width: int,
    key: str = "",
) -> np.ndarray:
    """Encode images in batches, float32 [N, width], from the feature cache where `key` is given.

    `encode` maps a batch size to a function of uint8 [B, S, S, 3].
    """
    source = GivenSource(images)
    if not len(source):
        return np.zeros((0, width), np.float32)
    size = min(BATCH, 1 << (len(source) - 1).bit_length())  # few shapes, few compilations
    found = cached_features(
        ImageEncoder(encode(size), preprocess, size),
        source,
        weights=key,
        cache_dir=default_cache_dir() / "features" if key else None,
        say=lambda line: None,
    )
    if found.skipped:
        name, reason = found.skipped[0]
        raise DataError(f"{name} {reason}")
    return np.array(found.features.features, np.float32)
