"""The models of a segmentation run: what makes maps, and the CLIP that reads domains."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import ConfigError
from clipjax.model.clip import CLIP, normalize
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.image_model import load_model
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.image_maps import image_maps
from clipjax.model.text import zero_shot_classifier
from clipjax.study.defaults import MODEL
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.segmentation_data import Masked

PyTree = Any
TINY_LEVELS = (4, 6)  # which of the tiny CLIP's blocks serve, docs/segmentation.md says
BACKBONE_RATE = "backbone/.*"  # parameters whose rate has a factor
TEMPLATES = ("a photo of {}", "a picture of {}", "a drawing of {}")  # around descriptions


class Dense(NamedTuple):
    """An image model as maps of images."""

    params: PyTree
    maps: Callable[[PyTree, jax.Array], tuple]  # (params, uint8 [B, H, W, 3]) -> float32 maps
    shapes: tuple[tuple[int, int, int], ...]  # in training, of each level: height, width, channels
    # Of a model of which a part trains, whose `params` are what does not; `maps` takes the whole.
    begin: Callable[[jax.Array], PyTree] | None = None  # rng -> what starts at random
    trained: PyTree = None  # what starts as the model has it, {} if nothing does
    rates: tuple[tuple[str, float], ...] = ()  # pattern of parameters, factor on their rate
    # Texts of domains as its prompts take them, float32 [D, E]; `maps` then takes what is added to
    # prompts, float32 [B, E], too.
    prompts: np.ndarray | None = None
    levels: tuple[int, ...] = ()  # of the model that maps are of; none of a diffusion model
    trains: str = "decoders alone"  # what does, in words
    note: str = ""  # what else is to be said before a run

    @property
    def width(self) -> int:
        """Numbers that the maps of an image are."""
        return sum(int(np.prod(shape)) for shape in self.shapes)


class Reader(NamedTuple):
    """A CLIP that reads the domain off images: W, and the texts of classes."""

    clip: Any  # its config
    params: PyTree
    preprocess: Any
    descriptions: np.ndarray  # float32 [D, P], of length 1
    texts: np.ndarray  # float32 [K, P], of the classes
    scale: float  # CLIP's factor on cosines
    weights: Callable[[Sequence[str]], np.ndarray]  # names -> float32 [N, P], of length 1

    def embed(self, params: PyTree, whole: jax.Array) -> jax.Array:
        """Embed images that are preprocessed to uint8, [B, S, S, 3] -> float32 [B, P]."""
        pixels = self.preprocess.normalize(whole)
        seen = CLIP(self.clip).apply({"params": params}, pixels, method="encode_image")
        return normalize(seen)


def open_models(config: Segmentation, data: Masked) -> tuple[Dense, Reader]:
    """Open what makes maps of images, and the CLIP; ConfigError for what does not fit."""
    directory = find_model(config.model)
    model, params = load_model(directory, dtype=jnp.float32)
    if model.vision is None:
        raise ConfigError(f"model={config.model} has no image tower; take another.")
    dense = _dense(config, data, model, params["vision"], load_preprocess(directory))
    if config.domain_model:
        return dense, open_reader(config, data.classes)
    return dense, _reader(config, data.classes, model, params, directory)


def open_reader(config: Segmentation, classes: Sequence[str], field: str = "") -> Reader:
    """Open the CLIP that reads domains; ConfigError if it has one tower alone.

    `field` is another one of the config's that names it.
    """
    name = config.teacher.model if field else config.domain_model or config.model
    directory = find_model(name)
    model, params = load_model(directory, dtype=jnp.float32)
    return _reader(config, classes, model, params, directory, field)


def _dense(config: Segmentation, data: Masked, model: Any, params: PyTree, look: Any) -> Dense:
    levels = levels_of(config, model)
    try:
        stride = config.output_stride
        tower = image_maps(model, levels, last=config.last, output_stride=stride)
    except ConfigError as error:
        raise ConfigError(f"model={config.model}: {error}") from None
    _check_patches(data, model, config)

    def maps(params: PyTree, pixels: jax.Array) -> tuple:
        return tower(params, look.normalize(pixels))

    image = jax.ShapeDtypeStruct((1, *data.trained, 3), jnp.uint8)
    shapes = tuple(x.shape[1:] for x in jax.eval_shape(maps, params, image))
    if config.backbone == "frozen":
        return Dense(params, maps, shapes, levels=levels)
    beyond = [f"block_{i}" for i in range(max(levels), model.vision.num_hidden_layers)]
    # What pools a CLIP's ResNet is beyond its maps, but for the values that MaskCLIP reads.
    beyond += ["attention_pool"] * ("attention_pool" in params and config.last == "state")
    trained = {name: tree for name, tree in params.items() if name not in beyond}
    frozen = {name: params[name] for name in beyond}
    number = sum(x.size for x in jax.tree.leaves(trained)) / 1e6
    told = f"decoders, and at {config.factor:g} of their rate the {number:.3g} M parameters of the "
    told += f"model up to level {max(levels)}"
    told += ", statistics of batch norms aside" * (getattr(model, "kind", "") == "resnet")
    rates = ((BACKBONE_RATE, config.factor),)
    return Dense(frozen, maps, shapes, lambda rng: {}, trained, rates, levels=levels, trains=told)


def levels_of(config: Segmentation, model: Any) -> tuple[int, ...]:
    """Return the levels whose maps decoders get: those that are named, else what suits the model.

    ConfigError: decoder=fpn, which joins several levels, of a model that has one.
    """
    if config.levels or config.model == MODEL:
        return config.levels or TINY_LEVELS
    depth = model.vision.num_hidden_layers
    joining = [method.name for method in config.decoders if method.decoder == "fpn"]
    if joining and depth == 1:
        told = f"methods.{joining[0]}.decoder=fpn joins maps of several levels"
        raise ConfigError(f"{told}, and model={config.model} has one; take another decoder.")
    return tuple(sorted({-(-depth * k // 4) for k in (1, 2, 3, 4)})) if joining else (depth,)


def _check_patches(data: Masked, model: Any, config: Segmentation) -> None:
    """Raise ConfigError unless patches divide height and width of all that is encoded."""
    patch = model.vision.patch_size
    if getattr(model, "kind", "") == "resnet":  # its places overlap, whatever the size is
        return
    given = config.data
    for size, field, set_ in (
        (data.trained, "crop", given.crop), (data.tested, "window", given.window)
    ):  # fmt: skip
        if size[0] % patch or size[1] % patch:
            nearest = tuple(max(1, round(side / patch)) * patch for side in size)
            what, remedy = (f"data.{field} has", field) if set_ else ("images have", "resize")
            told = f"{size[0]} x {size[1]} pixels, which patches of {patch} do not divide"
            remedy = f"data.{remedy}='{nearest}'"
            raise ConfigError(f"model={config.model}: {what} {told}; give {remedy}.")


def _reader(
    config: Segmentation, classes, clip: Any, params: PyTree, directory, field: str = ""
) -> Reader:
    """Encode the texts of domains and classes."""
    if clip.vision is None or clip.text is None:
        if field:
            told = f"{field}={config.teacher.model} has one tower"
            raise ConfigError(f"{told}; its answers need a CLIP of both, as {field}=tiny.")
        field = "domain_model" if config.domain_model else "model"
        told = f"{field}={config.domain_model or config.model} has one tower"
        need = "W and the texts of classes need a CLIP of both; name one"
        raise ConfigError(f"{told}; {need} by domain_model, as domain_model=tiny.")
    context = clip.text.max_position_embeddings
    tokenize = load_tokenizer(directory, context=context, tower=clip.text)
    encode = jax.jit(lambda p, ids: CLIP(clip).apply({"params": p}, ids, method="encode_text"))
    weights = lambda names: np.asarray(
        zero_shot_classifier(functools.partial(encode, params), tokenize, names, TEMPLATES)
    )
    scale = float(CLIP(clip).apply({"params": params}, method="scale"))
    texts = weights(tuple(config.descriptions.values())), weights(tuple(classes))
    return Reader(clip, params, load_preprocess(directory), *texts, scale, weights)
