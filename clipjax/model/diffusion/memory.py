"""How much memory a training step through Stable Diffusion will need, before it is compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clipjax.adapt.pixels import pixel_cross_entropy
from clipjax.errors import ConfigError
from clipjax.model.decoders import PyramidDecoder, resize_map
from clipjax.model.diffusion.blocks import Transformer
from clipjax.model.diffusion.sizes import abstract_params
from clipjax.model.diffusion.vpd import VPD, VPDConfig

GB = 1e9
# A TPU's compiler needed 0.69 of a plan without remat (docs/performance.md): how many times what a
# device has such a plan may be.
TOO_MUCH = 1.4


class StepBytes(NamedTuple):
    """Bytes of one training step on one device, planned from shapes; XLA needs some more."""

    parameters: int
    trained: int  # gradients of those that train, and AdamW's two moments; their sum, too
    activations: int  # what the backward pass reads of the forward one

    @property
    def total(self) -> int:
        """All together."""
        return sum(self)


def step_bytes(
    config: VPDConfig,
    batch: int,
    size: tuple[int, int],
    classes: int,
    *,
    free: bool,
    dtype: Any = jnp.float32,
    remat: str = "none",
    accumulate: int = 1,
    width: int = 256,
) -> StepBytes:
    """Plan a step of AdamW on images of `size` pixels with `classes` texts; nothing is computed.

    The decoder is a `PyramidDecoder` of `width` without modulation, the loss that of pixels.

    With `accumulate` microbatches `batch` is one of them, and a sum of gradients is kept beside.

    The UNet trains if `free`, its text adapter always; the VAE never does, and images come as
    latents. Parameters, gradients and moments are float32, activations of `dtype`.

    Raises:
      ValueError: a size that the model cannot take.
    """
    module = VPD(config, dtype, remat=remat)
    rows, columns = (length // config.vae.stride for length in size)
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    latents = array(batch, rows, columns, config.vae.latent_channels)
    texts = array(classes, config.unet.cross_attention_dim)
    domain = None if config.prompt == "none" else array(batch, texts.shape[1])
    params = abstract_params(config)
    names = ("unet", "adapter") if free else ("adapter",)

    def maps(own, params, *inputs):
        return module.apply({"params": {**params, **own}}, *inputs, method="maps")

    def loss(own, labels, *inputs):
        seen = decoder.apply({"params": own["decoder"]}, maps(own["backbone"], *inputs))
        return pixel_cross_entropy(resize_map(seen, size), labels)

    mine, decoder = {name: params[name] for name in names}, PyramidDecoder(classes, width)
    inputs = params, latents, texts, domain
    seen = jax.eval_shape(maps, mine, *inputs)
    head = jax.eval_shape(lambda x: decoder.init(jax.random.key(0), x)["params"], seen)
    own, labels = {"backbone": mine, "decoder": head}, array(batch, *size)
    activations = _kept(loss, own, labels, *inputs)
    if remat != "none":  # a block is computed again, its activations kept until it is done
        level = config.unet.attends.index(True) if any(config.unet.attends) else 0
        channels = config.unet.block_out_channels[level]
        block = Transformer(config.unet.heads[level], config.unet.norm_num_groups, dtype)
        place = jax.ShapeDtypeStruct((batch, rows >> level, columns >> level, channels), dtype)
        tokens = jax.ShapeDtypeStruct((batch, *texts.shape), dtype)
        part = jax.eval_shape(lambda *x: block.init(jax.random.key(0), *x)["params"], place, tokens)
        activations += _kept(lambda p, *x: block.apply({"params": p}, *x), part, place, tokens)
    copies = 3 + (accumulate > 1)
    return StepBytes(_bytes((params, head)), copies * _bytes(own), activations)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _kept(run: Callable, *inputs: Any) -> int:
    """Return bytes of what the backward pass of a function reads beside the inputs."""

    def kept(first, *rest):
        backward = jax.vjp(lambda own: run(own, *rest), first)[1]
        known = {id(leaf) for leaf in jax.tree.leaves((first, rest))}
        return [leaf for leaf in jax.tree.leaves(backward) if id(leaf) not in known]

    return _bytes(jax.eval_shape(kept, *inputs))


def check_memory(
    needed: StepBytes,
    available: int | None,
    device: str,
    *,
    free: bool = True,
    dtype: Any = jnp.float32,
    remat: str = "none",
) -> str:
    """Raise ConfigError for a step that a device has too little memory for; None: not known.

    What was planned, as of `step_bytes`, says which remedies are left. Without remat a plan says
    too much: up to `TOO_MUCH` times what the device has may fit, and a sentence says so.

    >>> needed = StepBytes(4 * 10**9, 10 * 10**9, 8 * 10**9)
    >>> check_memory(needed, 16 * 10**9, "cuda:0")
    'a step is planned to need 22.0 GB, and cuda:0 has 16.0: as such plans say up to 1.4 times too \
much the run goes on, and may run out of memory at its first step'
    >>> check_memory(needed, 15 * 10**9, "cuda:0")
    Traceback (most recent call last):
    ...
    clipjax.errors.ConfigError: a step needs about 22.0 GB (parameters 4.0, gradients and moments \
10.0, activations 8.0), and cuda:0 has 15.0; freeze the UNet, take remat 'blocks', bfloat16, \
smaller batches, more microbatches (accumulate) or smaller crops.
    """
    if available is None or needed.total <= available:
        return ""
    parts = (needed.total, needed.parameters, needed.trained, needed.activations, available)
    total, parameters, trained, activations, has = (f"{part / GB:.1f}" for part in parts)
    may_fit = remat == "none" and needed.parameters <= available
    if may_fit and needed.total <= TOO_MUCH * available:
        told = f"a step is planned to need {total} GB, and {device} has {has}: as such plans say up"
        told += f" to {TOO_MUCH:g} times too much the run goes on, and may run out of memory"
        return f"{told} at its first step"
    remedy = "freeze the UNet, take " if free else "take "
    remedy += "remat 'blocks', " * (remat != "blocks") + "bfloat16, " * (dtype == jnp.float32)
    remedy += "smaller batches, more microbatches (accumulate) or smaller crops"
    if needed.parameters > available:
        remedy = "its parameters alone do not fit: take a smaller model, or another device"
    raise ConfigError(
        f"a step needs about {total} GB (parameters {parameters}, gradients and moments {trained}, "
        f"activations {activations}), and {device} has {has}; {remedy}."
    )
