"""Augmentation of drawings and photos on the device, as pure functions of an rng."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.data.images.restyle import restyle, thicken

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def _uniform(rng, shape, low, high):
    return jax.random.uniform(rng, shape, minval=low, maxval=high)


def resample_matrices(scale: jax.Array, shift: jax.Array, size: int) -> jax.Array:
    """Make matrices of linear resampling along one axis, [B], [B] -> [B, size, size].

    Row o holds the weights of output pixel o, if the picture is scaled about its middle and moved
    by `shift` (in units of its size). Outside of the picture is zero.
    """
    out = jnp.arange(size) - (size - 1) / 2
    source = out[None] / scale[:, None] + (size - 1) / 2 - shift[:, None] * size
    distance = jnp.abs(source[:, :, None] - jnp.arange(-size, 2 * size)[None, None])
    # A shrunken picture needs a wider kernel, or thin strokes fall between the samples.
    width = jnp.maximum(1.0, 1.0 / scale)[:, None, None]
    weights = jnp.maximum(0.0, 1.0 - distance / width)
    # Normalised over pixels beyond the border too: border rows fade.
    total = jnp.maximum(weights.sum(axis=2, keepdims=True), 1e-6)
    return weights[:, :, size : 2 * size] / total


def _place(rng, rgba, strength):
    """Scale, stretch, shift and mirror premultiplied RGBA [B, S, S, 4] at random."""
    batch, size = rgba.shape[:2]
    r = jax.random.split(rng, 5)
    scale = _uniform(r[0], (batch,), 1 - 0.35 * strength, 1 + 0.15 * strength)
    aspect = jnp.exp(_uniform(r[1], (batch,), -0.15, 0.15) * strength)
    shifts = _uniform(r[2], (2, batch), -0.1, 0.1) * strength
    rows = resample_matrices(scale * aspect, shifts[0], size)
    columns = resample_matrices(scale / aspect, shifts[1], size)
    mirror = jax.random.bernoulli(r[3], 0.5 * min(1.0, strength), (batch,))
    columns = jnp.where(mirror[:, None, None], columns[:, ::-1], columns)
    out = jnp.einsum("boi,bijc->bojc", rows, rgba)
    return jnp.einsum("bpj,bojc->bopc", columns, out)


def _ink_and_paper(rng, batch, white_share):
    """Draw foreground and background colours [B, 3] that differ in brightness."""
    r = jax.random.split(rng, 4)
    ink = _uniform(r[0], (batch, 3), 0.0, 1.0)
    paper = _uniform(r[1], (batch, 3), 0.0, 1.0)
    white = jax.random.bernoulli(r[2], white_share, (batch, 1))
    paper = jnp.where(white, 1.0, paper)
    black = jax.random.bernoulli(r[3], 0.25, (batch, 1))
    ink = jnp.where(black, ink * 0.2, ink)
    light_paper = (paper @ _LUMA)[:, None] > 0.5
    too_close = jnp.abs((ink - paper) @ _LUMA)[:, None] < 0.3
    return jnp.where(too_close, jnp.where(light_paper, ink * 0.3, 1 - (1 - ink) * 0.3), ink), paper


def _jitter_colour(rng, rgb, strength):
    """Vary saturation (sometimes to grey), brightness and contrast of RGB [B, S, S, 3]."""
    r = jax.random.split(rng, 4)
    shape = (len(rgb), 1, 1, 1)
    grey = (rgb @ _LUMA)[..., None]
    saturation = 1 + _uniform(r[0], shape, -0.5, 0.5) * strength
    saturation = jnp.where(jax.random.bernoulli(r[1], 0.1, shape), 0.0, saturation)
    rgb = grey + (rgb - grey) * saturation
    contrast = 1 + _uniform(r[2], shape, -0.3, 0.3) * strength
    return (rgb - 0.5) * contrast + 0.5 + _uniform(r[3], shape, -0.15, 0.15) * strength


def augment_drawings(
    rng: jax.Array,
    rgba: jax.Array,
    mono: jax.Array,
    *,
    strength: float = 1.0,
    white: float = 0.5,
    styles: Mapping[str, float] | None = None,
) -> jax.Array:
    """Paint drawings on paper, randomly placed and coloured, float32 [B, S, S, 3] in [0, 1].

    `rgba` is uint8 [B, S, S, 4], straight alpha; `mono`, bool [B], tells one-coloured drawings,
    which get a random colour; `strength`, 0 to 1, scales changes in place and colour; `white` is
    the share of drawings on white paper, others are on a random colour; `styles` are shares of
    the styles that drawings are redrawn in (`clipjax.data.images.restyle`).
    """
    r = jax.random.split(rng, 4)
    picture = rgba.astype(jnp.float32) / 255
    is_mono = mono[:, None, None]
    alpha = jnp.where(is_mono, thicken(r[0], picture[..., 3]), picture[..., 3])[..., None]
    ink, paper = _ink_and_paper(r[1], len(rgba), white_share=white)
    colour = _jitter_colour(r[2], picture[..., :3], strength)
    colour = jnp.where(is_mono[..., None], ink[:, None, None], jnp.clip(colour, 0, 1))
    if styles:
        colour, alpha = restyle(jax.random.fold_in(rng, 4), colour, alpha[..., 0], styles)
        alpha = alpha[..., None]
    placed = _place(r[3], jnp.concatenate([colour * alpha, alpha], axis=-1), strength)
    return jnp.clip(placed[..., :3] + (1 - placed[..., 3:]) * paper[:, None, None], 0.0, 1.0)


def random_resized_crop(
    rng: jax.Array, images: jax.Array, *, smallest: float = 0.5, flip: bool = True
) -> jax.Array:
    """Resize a random crop of each image to full size, and mirror half of them if `flip`.

    Szegedy et al. 2015, arXiv 1409.4842: of at least the share `smallest`, in (0, 1], of the area,
    with aspect ratios from 3/4 to 4/3. Images are uint8 or float [B, S, S, C], the result float32
    in the same range.
    """
    batch, size = images.shape[:2]
    r = jax.random.split(rng, 4)
    area = _uniform(r[0], (batch,), smallest, 1.0)
    aspect = jnp.exp(_uniform(r[1], (batch,), np.log(3 / 4), np.log(4 / 3)))
    # Height and width of the crop as shares of the image, at most 1.
    sides = jnp.minimum(jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=1)), 1.0)
    corner = jax.random.uniform(r[2], (batch, 2)) * (1.0 - sides) * size
    mirror = jax.random.bernoulli(r[3], 0.5 if flip else 0.0, (batch,))

    def crop(image, scale, offset, mirrored):
        shape = (size, size, image.shape[-1])
        out = jax.image.scale_and_translate(image, shape, (0, 1), scale, offset, "linear")
        return jnp.where(mirrored, out[:, ::-1], out)

    scale = 1.0 / sides
    return jax.vmap(crop)(images.astype(jnp.float32), scale, -corner * scale, mirror)
