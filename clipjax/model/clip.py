"""CLIP's two towers in flax.linen (Radford et al. 2021, arXiv 2103.00020).

Parameters are nested dicts in input-to-output order, so that `clipjax.train.groups.layer_groups`
can name, freeze and scale them; `clipjax.model.hf.params` has Hugging Face's names for them.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.layers.dense import affine
from clipjax.model.layers.norm import LayerNorm
from clipjax.model.layers.positions import sincos_positions
from clipjax.model.transformer import TowerConfig, run_blocks

MAX_LOGIT_SCALE = 4.605170185988092  # ln 100, the clamp of the CLIP paper (section 2.5)


@dataclasses.dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The image tower: square images of `image_size` pixels in patches of `patch_size`."""

    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3

    def __post_init__(self):
        super().__post_init__()
        size, patch = self.image_size, self.patch_size
        if patch <= 0 or size <= 0 or size % patch:
            raise ValueError(f"image_size {size} must be a multiple of patch_size {patch}.")

    @property
    def num_patches(self) -> int:
        """Number of patches per image, without the class token."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The text tower. `eos_token_id == 2` marks the old exports whose pooling is argmax."""

    vocab_size: int = 49408
    max_position_embeddings: int = 77
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    pad_token_id: int | None = 49407


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Both towers, the width of the shared space and the initial log temperature."""

    vision: VisionConfig | None  # None if a checkpoint holds only the other tower
    text: TextConfig | None
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592  # ln(1 / 0.07)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """Cut images into rows of flat patches, [B, H, W, C] -> [B, N, patch*patch*C]."""
    batch, height, width, channels = images.shape
    grid = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


class _Computed(nn.Module):
    """Attributes of CLIP and its towers."""

    config: Any  # sizes
    dtype: Any = jnp.float32  # of the towers' computation, whatever dtype the parameters have
    kernel: str | None = None  # of attention: None, "xla" or "cudnn", see `attend`
    remat: str = "none"  # what the backward pass recomputes instead of keeping it, see `REMAT`


class VisionTower(_Computed):
    """Images to the pooled class token, float [B, S, S, 3] -> float32 [B, D].

    `keep` < 1 encodes random patches, chosen per image with `rng` (FLIP, Li et al. 2023, arXiv
    2212.00794). `all_hidden=True` also returns the hidden states of all layers, [B, T, D] each.
    `prompts` [n, D] are tokens behind the patches, without a position, before the first norm;
    `deep` [J - 1, n, D] replace them at the inputs of blocks 1 to J - 1 (`run_blocks`).
    """

    @nn.compact
    def __call__(
        self,
        images,
        *,
        keep: float = 1.0,
        rng=None,
        all_hidden: bool = False,
        prompts=None,
        deep=None,
    ):
        cfg, width = self.config, self.config.hidden_size
        if images.shape[1:] != (cfg.image_size, cfg.image_size, cfg.num_channels):
            wanted = f"[batch, {cfg.image_size}, {cfg.image_size}, {cfg.num_channels}]"
            raise ValueError(f"images of shape {images.shape} do not fit: give {wanted}.")
        init = nn.initializers.normal(0.02)
        kernel_shape = (cfg.patch_size**2 * cfg.num_channels, width)
        kernel = self.param("patch_embedding", nn.initializers.lecun_normal(), kernel_shape)
        class_embedding = self.param("class_embedding", init, (width,))
        grid = cfg.image_size // cfg.patch_size
        positions = self.param("position_embedding", lambda _: sincos_positions(grid, width))

        patches = patchify(images.astype(self.dtype), cfg.patch_size)
        where = positions[None, 1:]
        if keep < 1.0:
            kept = max(1, round(keep * cfg.num_patches))
            order = jnp.argsort(jax.random.uniform(rng, patches.shape[:2]), axis=1)[:, :kept]
            patches = jnp.take_along_axis(patches, order[..., None], axis=1)
            where = positions[1:][order]
        x = affine(patches, kernel.astype(self.dtype)) + where.astype(self.dtype)
        first = class_embedding.astype(self.dtype) + positions[0].astype(self.dtype)
        x, place = [jnp.broadcast_to(first, (x.shape[0], 1, width)), x], x.shape[1] + 1
        if prompts is not None:
            more = prompts.astype(self.dtype)
            x.append(jnp.broadcast_to(more, (len(images), *more.shape)))
        x = jnp.concatenate(x, axis=1)
        x = LayerNorm(cfg.layer_norm_eps, name="pre_layernorm")(x).astype(self.dtype)
        shared = {"causal": False, "every": all_hidden, "deep": deep, "place": place}
        x, hidden = run_blocks(self, x, lambda x: x[:, :1], **shared)
        pooled = LayerNorm(cfg.layer_norm_eps, name="post_layernorm")(x[:, 0])
        return (pooled, hidden) if all_hidden else pooled


def pool_positions(ids: jax.Array, eos_token_id: int) -> jax.Array:
    """Return the index of each text's pooled token, int [B, T] -> int [B]: its first EOS."""
    # In old exports with `eos_token_id == 2` it is the largest id (transformers issue 24650).
    return jnp.argmax(ids if eos_token_id == 2 else ids == eos_token_id, axis=-1)


class TextTower(_Computed):
    """Token ids to the pooled EOS state, int32 [B, T] -> float32 [B, D]. Causal attention.

    `embeddings` float32 [B, T, D] (learned prompts) replace those of the ids, which then only mark
    the end of a text. `deep` [J - 1, n, D] replace tokens 1 to n, behind the first, at the inputs
    of blocks 1 to J - 1 (`run_blocks`).
    """

    @nn.compact
    def __call__(self, ids, embeddings=None, *, all_hidden: bool = False, deep=None):
        cfg = self.config
        if ids.shape[1] > cfg.max_position_embeddings:
            most = cfg.max_position_embeddings
            raise ValueError(f"texts of {ids.shape[1]} tokens are too long; cut them at {most}.")
        init = nn.initializers.normal(0.02)
        tokens = self.param("token_embedding", init, (cfg.vocab_size, cfg.hidden_size))
        shape = (cfg.max_position_embeddings, cfg.hidden_size)
        positions = self.param("position_embedding", init, shape)
        # Cast before adding: parameters may be stored in half precision.
        embeddings = tokens[ids] if embeddings is None else embeddings
        x = embeddings.astype(self.dtype) + positions[None, : ids.shape[1]].astype(self.dtype)
        end = pool_positions(ids, cfg.eos_token_id)
        take_end = lambda x: jnp.take_along_axis(x, end[:, None, None], axis=1)
        shared = {"causal": True, "every": all_hidden, "deep": deep, "place": 1}
        x, hidden = run_blocks(self, x, take_end, end + 1, **shared)
        pooled = LayerNorm(cfg.layer_norm_eps, name="final_layer_norm")(x[:, 0])
        return (pooled, hidden) if all_hidden else pooled


@jax.custom_jvp
def clamp_logit_scale(x: jax.Array) -> jax.Array:
    """Compute min(x, ln 100), float32 [], with gradient 1 everywhere (straight-through).

    The gradient of `jnp.minimum` is 1/2 at a tie, where OpenAI's checkpoints lie, and 0 above.

    >>> [round(jax.grad(clamp_logit_scale)(x).item(), 1) for x in (4.0, MAX_LOGIT_SCALE, 5.0)]
    [1.0, 1.0, 1.0]
    """
    return jnp.minimum(x, MAX_LOGIT_SCALE)


clamp_logit_scale.defjvp(lambda primals, tangents: (clamp_logit_scale(*primals), tangents[0]))


def tell_clamped(logit_scale: float) -> str:
    """Warn of a learned scale that `CLIP.scale` clamps; "" where that changes nothing.

    >>> tell_clamped(4.6052), tell_clamped(5.0)[:43]
    ('', "the model's logit_scale is 5.000, above ln ")
    """
    if not logit_scale > MAX_LOGIT_SCALE + 1e-3:  # OpenAI's own are this close to ln 100
        return ""
    return (
        f"the model's logit_scale is {logit_scale:.3f}, above ln 100 = {MAX_LOGIT_SCALE:.3f}: "
        f"similarities are multiplied by 100, not by {math.exp(logit_scale):.1f}."
    )


class CLIP(_Computed):
    """Vision tower, text tower, projections and logit scale, by a `CLIPConfig`.

    Embeddings are float32 [B, projection_dim] and **not** normalised; `normalize` does that.
    """

    def setup(self):
        cfg, shared = self.config, (self.dtype, self.kernel, self.remat)
        project = lambda: nn.Dense(cfg.projection_dim, use_bias=False, dtype=jnp.float32)
        if cfg.vision:
            self.vision = VisionTower(cfg.vision, *shared)
            self.visual_projection = project()
        if cfg.text:
            self.text = TextTower(cfg.text, *shared)
            self.text_projection = project()
        if cfg.vision and cfg.text:
            init = nn.initializers.constant(cfg.logit_scale_init_value)
            self.logit_scale = self.param("logit_scale", init, ())

    def encode_image(self, images: jax.Array, **options) -> jax.Array:
        """Embed preprocessed images [B, S, S, 3], float32 [B, projection_dim].

        `options` are those of `VisionTower`: keep, rng, prompts, deep.
        """
        return self.visual_projection(self.vision(images, **options))

    def encode_text(
        self, ids: jax.Array, embeddings: jax.Array | None = None, deep: jax.Array | None = None
    ) -> jax.Array:
        """Embed int32 [B, T], or `embeddings` [B, T, hidden_size]: float32 [B, projection_dim]."""
        return self.text_projection(self.text(ids, embeddings, deep=deep))

    def scale(self) -> jax.Array:
        """Return the factor on cosine similarities: exp(logit_scale), clamped at 100."""
        return jnp.exp(clamp_logit_scale(self.logit_scale.astype(jnp.float32)))

    def __call__(self, images: jax.Array, ids: jax.Array) -> jax.Array:
        """Compute similarity logits of images and texts, float32 [B_images, B_texts]."""
        image, text = normalize(self.encode_image(images)), normalize(self.encode_text(ids))
        return self.scale() * image @ text.T


def normalize(x: jax.Array, axis: int = -1) -> jax.Array:
    """Scale vectors to Euclidean length 1.

    >>> normalize(jnp.array([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)
