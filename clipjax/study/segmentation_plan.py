"""What a segmentation run works on: model, texts and images, opened, checked and encoded."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.images.preprocess import load_preprocess
from clipjax.data.masks import MixedMasks
from clipjax.errors import ConfigError
from clipjax.model.clip import CLIP, normalize
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.load import load_clip
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.maps import DenseTower
from clipjax.model.text import zero_shot_classifier
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.segmentation_data import Masked, open_data
from clipjax.train.distributed import processes

PyTree = Any
TEMPLATES = ("a photo of {}", "a picture of {}", "a drawing of {}")  # around descriptions
BATCH = 50  # images encoded, or answered, at a time


class Plan(NamedTuple):
    """Model and texts of a run, opened and checked."""

    config: Segmentation
    data: Masked
    clip: Any  # its config
    params: PyTree
    preprocess: Any
    descriptions: np.ndarray  # float32 [D, P], of length 1
    texts: np.ndarray  # float32 [K, P], of the classes
    scale: float  # CLIP's factor on cosines


class Encoded(NamedTuple):
    """Images as a decoder sees them."""

    maps: np.ndarray  # float16 [N, h * w * C]
    embedding: np.ndarray  # float32 [N, P]
    masks: np.ndarray  # uint8 [N, H, W]
    condition: np.ndarray  # int32 [N], place among the descriptions


def prepare(config: Segmentation) -> Plan:
    """Open data and model, encode the texts; a ClipjaxError says in a sentence what cannot run."""
    if processes.several():
        raise ConfigError("a segmentation run uses one process; start it without a coordinator.")
    data = open_data(config.data)
    check_described(config, data)
    directory = find_model(config.model)
    clip, params = load_clip(directory, dtype=jnp.float32)
    if clip.vision is None or clip.text is None:
        raise ConfigError(f"model={config.model} has one tower; Domino needs a CLIP of both.")
    check_patches(image_size(data), clip.vision.patch_size, config.model)
    context = clip.text.max_position_embeddings
    tokenize = load_tokenizer(directory, context=context, tower=clip.text)
    encode = jax.jit(lambda p, ids: CLIP(clip).apply({"params": p}, ids, method="encode_text"))
    weights = lambda names, prompts: np.asarray(
        zero_shot_classifier(functools.partial(encode, params), tokenize, names, prompts)
    )
    scale = float(CLIP(clip).apply({"params": params}, method="scale"))
    described = weights(tuple(config.descriptions.values()), TEMPLATES)
    texts = weights(data.classes, TEMPLATES)
    return Plan(config, data, clip, params, load_preprocess(directory), described, texts, scale)


def check_described(config: Segmentation, data: Masked) -> None:
    """Raise ConfigError if control=oracle is asked for and a domain has no description."""
    oracle = any(method.control == "oracle" for method in config.decoders)
    domains = (*config.data.sources, *data.targets) if oracle else ()
    if lost := [domain for domain in domains if domain not in config.descriptions]:
        told = f"control=oracle needs a description of {lost[0]!r}"
        raise ConfigError(f"{told}; add descriptions.{lost[0]}.")


def check_patches(size: tuple[int, int], patch: int, model: str) -> None:
    """Raise ConfigError unless patches divide height and width of what is encoded."""
    if size[0] % patch or size[1] % patch:
        told = f"{size[0]} x {size[1]} pixels, which patches of {patch} do not divide"
        raise ConfigError(f"model={model}: images have {told}; take another.")


def image_size(data: Masked) -> tuple[int, int]:
    """Return height and width of the images."""
    return data.train[0].image.shape[:2]


def encoded(plan: Plan, source: MixedMasks) -> Encoded:
    """Encode images: maps of their patches, and CLIP's embedding of the whole picture."""
    every = [source[i] for i in range(len(source))]
    clip, look = plan.clip, plan.preprocess

    @jax.jit
    def encode(params, pixels, whole):
        tower = DenseTower(clip.vision)
        last = plan.config.last
        _, maps, _ = tower.apply({"params": params["vision"]}, look.normalize(pixels), last=last)
        seen = CLIP(clip).apply({"params": params}, look.normalize(whole), method="encode_image")
        return maps.astype(jnp.float16), normalize(seen)

    maps, embedded = [], []
    for first in range(0, len(every), BATCH):
        part = every[first : first + BATCH]
        filled = part + part[:1] * (BATCH - len(part))  # one shape
        pixels = np.stack([example.image for example in filled])
        whole = np.stack([look.crop(example.image, example.name) for example in filled])
        found = encode(plan.params, pixels, whole)
        maps.append(np.asarray(found[0])[: len(part)].reshape(len(part), -1))
        embedded.append(np.asarray(found[1])[: len(part)])
    names = list(plan.config.descriptions)
    domains = (source.domain_of(i) for i in range(len(source)))
    places = [names.index(domain) if domain in names else 0 for domain in domains]
    return Encoded(
        np.concatenate(maps),
        np.concatenate(embedded),
        np.stack([example.mask for example in every]),
        np.array(places, np.int32),
    )


def map_shape(plan: Plan) -> tuple[int, int, int]:
    """Return height, width and channels of the maps."""
    height, width = (side // plan.clip.vision.patch_size for side in image_size(plan.data))
    return height, width, plan.clip.vision.hidden_size
