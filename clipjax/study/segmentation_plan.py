"""What a segmentation run works on: model, texts and scenes, opened, checked and encoded."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.images.preprocess import load_preprocess
from clipjax.data.scenes import CLASSES, SIZE, SOURCE, Scenes
from clipjax.errors import ConfigError
from clipjax.model.clip import CLIP, normalize
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.load import load_clip
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.maps import DenseTower
from clipjax.model.text import zero_shot_classifier
from clipjax.study.segmentation_config import Segmentation
from clipjax.train.distributed import processes

PyTree = Any
TEMPLATES = ("a photo of {}", "a picture of {}", "a drawing of {}")  # around descriptions
BATCH = 50  # scenes encoded, or answered, at a time


class Plan(NamedTuple):
    """Model and texts of a run, opened and checked."""

    config: Segmentation
    clip: Any  # its config
    params: PyTree
    preprocess: Any
    descriptions: np.ndarray  # float32 [D, P], of length 1
    texts: np.ndarray  # float32 [K, P], of the classes
    scale: float  # CLIP's factor on cosines


class Encoded(NamedTuple):
    """Scenes as a decoder sees them."""

    maps: np.ndarray  # float16 [N, h * w * C]
    embedding: np.ndarray  # float32 [N, P]
    masks: np.ndarray  # uint8 [N, 96, 96]
    condition: np.ndarray  # int32 [N], place among the descriptions


def prepare(config: Segmentation) -> Plan:
    """Open the model and encode its texts; ConfigError or CheckpointError for what cannot run."""
    if processes.several():
        raise ConfigError("a segmentation run uses one process; start it without a coordinator.")
    directory = find_model(config.model)
    clip, params = load_clip(directory, dtype=jnp.float32)
    if clip.vision is None or clip.text is None:
        raise ConfigError(f"model={config.model} has one tower; Domino needs a CLIP of both.")
    if SIZE % clip.vision.patch_size:
        told = f"scenes have {SIZE} pixels, which patches of {clip.vision.patch_size} do not divide"
        raise ConfigError(f"model={config.model}: {told}; take another.")
    context = clip.text.max_position_embeddings
    tokenize = load_tokenizer(directory, context=context, tower=clip.text)
    encode = jax.jit(lambda p, ids: CLIP(clip).apply({"params": p}, ids, method="encode_text"))
    weights = lambda names, prompts: np.asarray(
        zero_shot_classifier(functools.partial(encode, params), tokenize, names, prompts)
    )
    scale = float(CLIP(clip).apply({"params": params}, method="scale"))
    described = weights(tuple(config.descriptions.values()), TEMPLATES)
    texts = weights(CLASSES, TEMPLATES)
    return Plan(config, clip, params, load_preprocess(directory), described, texts, scale)


def training_scenes(config: Segmentation) -> list[Scenes]:
    """Return renders in clear sight, and a share of clipart with colours changed in their place."""
    drawn = round(config.data.synthetic * config.data.train)
    parts = [(config.data.train - drawn, SOURCE, "render"), (drawn, "tinted", "clipart")]
    return [Scenes("train", count, how, style) for count, how, style in parts if count]


def encoded(plan: Plan, scenes: Any, condition: str = SOURCE) -> Encoded:
    """Encode scenes: maps of their patches, and CLIP's embedding of the whole picture."""
    parts = scenes if isinstance(scenes, list) else [scenes]
    every = [part[i] for part in parts for i in range(len(part))]
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
        pixels = np.stack([scene.image for scene in filled])
        whole = np.stack([look.crop(scene.image, scene.name) for scene in filled])
        found = encode(plan.params, pixels, whole)
        maps.append(np.asarray(found[0])[: len(part)].reshape(len(part), -1))
        embedded.append(np.asarray(found[1])[: len(part)])
    names = list(plan.config.descriptions)
    place = names.index(condition) if condition in names else 0
    return Encoded(
        np.concatenate(maps),
        np.concatenate(embedded),
        np.stack([scene.mask for scene in every]),
        np.full(len(every), place, np.int32),
    )


def map_shape(plan: Plan) -> tuple[int, int, int]:
    """Return height, width and channels of the maps."""
    side = SIZE // plan.clip.vision.patch_size
    return side, side, plan.clip.vision.hidden_size
