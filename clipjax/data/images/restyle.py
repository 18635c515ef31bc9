"""Coloured drawings in other styles: grey, stencil, lines, ink. On the device, pure in an rng.

Ranges are wide on purpose and were fitted to no style of the embedded dataset.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.errors import ConfigError

STYLES = ("colour", "grey", "stencil", "lines", "ink")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_REACH = 5  # pixels of a blur's kernel to each side


def check_styles(shares: Mapping[str, float]) -> None:
    """Raise ConfigError for shares of unknown styles, negative ones, or none above 0."""
    if unknown := [name for name in shares if name not in STYLES]:
        known = ", ".join(STYLES)
        raise ConfigError(f"augment.styles has no {unknown[0]!r}; known: {known}.")
    if shares and not min(shares.values()) >= 0 < sum(shares.values()):
        fault = f"augment.styles is {dict(shares)}"
        raise ConfigError(f"{fault}; give shares, none negative and one above 0.")


def _uniform(rng, batch, low, high):
    """Draw a number for each image, [B, 1, 1]."""
    return jax.random.uniform(rng, (batch, 1, 1), minval=low, maxval=high)


def widest(x: jax.Array) -> jax.Array:
    """Take the largest value of each pixel's 3 x 3 neighbours, [B, S, S]."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")


def thicken(rng: jax.Array, ink: jax.Array) -> jax.Array:
    """Make 30 % of drawings [B, S, S] a pixel thicker and 10 % thinner."""
    choice = jax.random.uniform(rng, (len(ink), 1, 1))
    return jnp.where(choice < 0.3, widest(ink), jnp.where(choice > 0.9, -widest(-ink), ink))


def _blur(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blur planes [B, S, S] on white paper by Gaussians of [B, 1, 1] pixels."""
    size = x.shape[1]
    apart = jnp.arange(size)[:, None] - jnp.arange(size)[None]
    near = jnp.abs(apart) <= _REACH
    weights = jnp.where(near, jnp.exp(-(apart**2) / (2 * sigma**2)), 0.0)
    taps = jnp.arange(-_REACH, _REACH + 1)
    weights = weights / jnp.exp(-(taps**2) / (2 * sigma**2)).sum(axis=2, keepdims=True)
    return 1 - jnp.einsum("boi,bij,bpj->bop", weights, 1 - x, weights)


def _stencil(rng, light):
    """Ink where a drawing is darker than a level, its own or its surroundings', [B, S, S]."""
    r, batch = jax.random.split(rng, 5), len(light)
    level = _uniform(r[0], batch, 0.35, 0.97)
    around = _blur(light, _uniform(r[1], batch, 2.0, 4.0)) * _uniform(r[2], batch, 0.85, 0.97)
    local = jax.random.bernoulli(r[3], 0.4, (batch, 1, 1))
    inside = widest((light < 0.96).astype(jnp.float32))  # paper stays clean
    ink = inside * jax.nn.sigmoid((jnp.where(local, around, level) - light) * 30)
    negative = jax.random.bernoulli(r[4], 0.25, (batch, 1, 1))  # light parts drawn, dark ones left
    return jnp.where(negative, inside * (1 - ink), ink)


def _lines(rng, rgb):
    """Ink where the colour of [B, S, S, 3] changes, [B, S, S]."""
    r, batch, size = jax.random.split(rng, 5), len(rgb), rgb.shape[1]
    planes = jnp.moveaxis(rgb, -1, 1).reshape(-1, size, size)
    sigma = jnp.repeat(_uniform(r[0], batch, 0.3, 1.2), 3, axis=0)
    soft = jnp.pad(_blur(planes, sigma), ((0, 0), (1, 1), (1, 1)), constant_values=1.0)
    across = soft[:, 1:-1, 2:] - soft[:, 1:-1, :-2]
    down = soft[:, 2:, 1:-1] - soft[:, :-2, 1:-1]
    square = (across**2 + down**2).reshape(batch, 3, size, size).mean(axis=1)
    edge = jnp.sqrt(square + 1e-8)
    thin = jnp.clip((edge / (widest(edge) + 1e-4) - 0.75) / 0.25, 0, 1)  # a stroke's ridge alone
    edge = edge * jnp.where(jax.random.bernoulli(r[1], 0.7, (batch, 1, 1)), thin, 1.0)
    gain = jnp.exp(_uniform(r[2], batch, np.log(3.0), np.log(12.0)))
    return thicken(r[4], jnp.clip((edge - _uniform(r[3], batch, 0.02, 0.08)) * gain, 0, 1))


def _inks(rng, batch):
    """Draw colours of ink [B, 1, 1, 3]: most nearly black, others dark."""
    r = jax.random.split(rng, 3)
    black = jnp.broadcast_to(_uniform(r[0], batch, 0.0, 0.15), (batch, 1, 3))
    dark = jax.random.uniform(r[1], (batch, 1, 3), maxval=0.7)
    chosen = jnp.where(jax.random.bernoulli(r[2], 0.7, (batch, 1, 1)), black, dark)
    return chosen[:, None]


def restyle(
    rng: jax.Array, rgb: jax.Array, alpha: jax.Array, shares: Mapping[str, float]
) -> tuple[jax.Array, jax.Array]:
    """Draw each image again in a style drawn by `shares` of `STYLES` ("colour": as it is).

    `rgb` float [B, S, S, 3] in [0, 1] and `alpha` [B, S, S]; returns both of the new drawings.
    """
    r, batch = jax.random.split(rng, 8), len(rgb)
    over_white = rgb * alpha[..., None] + 1 - alpha[..., None]
    light = over_white @ _LUMA
    grey = (rgb @ _LUMA) ** jnp.exp(_uniform(r[0], batch, -0.7, 0.7))
    grey = jnp.where(jax.random.bernoulli(r[1], 0.2, (batch, 1, 1)), 1 - grey, grey)
    stencil, lines = _stencil(r[2], light), _lines(r[3], over_white)
    both = jnp.maximum(lines, stencil)
    chance = np.array([shares.get(style, 0.0) for style in STYLES], np.float32)
    kind = jax.random.choice(r[4], len(STYLES), (batch, 1, 1), p=chance / chance.sum())
    cover = jnp.select([kind == 2, kind == 3, kind == 4], [stencil, lines, both], alpha)
    ink = jnp.where((kind == 1)[..., None], grey[..., None], _inks(r[5], batch))
    return jnp.where((kind == 0)[..., None], rgb, ink), cover
