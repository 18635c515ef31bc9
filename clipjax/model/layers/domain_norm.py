"""Normalisation of maps that a domain may modulate, with statistics of a batch or of an example."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.adapt.precise import FIXED, MOMENTS

STATISTICS = ("instance", "group", "layer", "batch")
EPS = 1e-5


class DomainNorm(nn.Module):
    """Domino's normalisation, (f - mean) / std * (1 + G(h)) + B(h), [B, H, W, C] -> float32.

    `condition` h float32 [B, M] is what a decoder made of the domain embedding W; G and B are
    linear and start at zero, so that at the first step it is the plain norm for every W. Without a
    condition it has a learned scale and shift of its own, which is what a constant W would be.
    Statistics are over the places of one image ("instance"), over places and channels of a group
    ("group"), or over the channels of a place ("layer"), in float32, epsilon inside the root. What
    Kaplan et al. 2024 call gamma_f in equation 1 must be a standard deviation.

    The paper's statistics are over a "batch", which makes its examples depend on each other: of all
    places of the images that `real` bool [B] marks (None: of all), as torch's BatchNorm2d in
    training. There are no running averages: where the collection `FIXED` has this norm's "mean" and
    "variance", these take the batch's place, and examples are on their own. Where `MOMENTS` is
    mutable, the batch's go there, of which `clipjax.adapt.precise` makes those to fix.
    """

    stats: str = "instance"
    groups: int = 8

    @nn.compact
    def __call__(
        self, x: jax.Array, condition: jax.Array | None = None, real: jax.Array | None = None
    ) -> jax.Array:
        width, x = x.shape[-1], x.astype(jnp.float32)
        if condition is None:
            factor = self.param("scale", nn.initializers.ones, (width,))
            shift = self.param("bias", nn.initializers.zeros, (width,))
        else:
            zero = lambda name: nn.Dense(width, kernel_init=nn.initializers.zeros, name=name)
            factor = 1 + zero("factor")(condition)[:, None, None]
            shift = zero("shift")(condition)[:, None, None]
        return self._standardised(x, real) * factor + shift

    def _standardised(self, x: jax.Array, real: jax.Array | None) -> jax.Array:
        if self.stats not in STATISTICS:
            known = ", ".join(STATISTICS)
            raise ValueError(f"stats={self.stats!r} is unknown; known: {known}.")
        if self.stats == "batch":
            mean, variance = self._of_batch(x, real)
            return (x - mean) * jax.lax.rsqrt(variance + EPS)
        if self.stats == "group":
            if x.shape[-1] % self.groups:
                told = f"{x.shape[-1]} channels cannot be cut into {self.groups} groups"
                raise ValueError(f"{told}; give a number that divides them.")
            cut = x.reshape(*x.shape[:3], self.groups, -1)
            return standard(cut, (1, 2, 4)).reshape(x.shape)
        return standard(x, (3,) if self.stats == "layer" else (1, 2))

    def _of_batch(self, x: jax.Array, real: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        collects = self.is_mutable_collection(MOMENTS) and not self.is_initializing()
        if fixed := self.has_variable(FIXED, "mean"):
            mean, variance = (self.get_variable(FIXED, name) for name in ("mean", "variance"))
        if collects or not fixed:
            where = None if real is None else real[:, None, None, None]
            own = jnp.mean(x, (0, 1, 2), where=where)
            spread = jnp.mean(jnp.square(x - own), (0, 1, 2), where=where)
        if collects:
            self.put_variable(MOMENTS, "mean", own)
            self.put_variable(MOMENTS, "variance", spread)
        return (mean, variance) if fixed else (own, spread)


def standard(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Subtract the mean over axes and divide by the standard deviation."""
    mean = x.mean(axes, keepdims=True)
    variance = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + EPS)
