"""The pre-norm transformer of both towers (Vaswani et al. 2017, arXiv 1706.03762)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from clipjax.model.layers.attention import attend, attend_pooled, check_kernel
from clipjax.model.layers.dense import DOT_NAME, Dense
from clipjax.model.layers.norm import LayerNorm

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}

# What the backward pass keeps of a block, and recomputes: less memory, more time.
REMAT = {
    "none": "everything is kept",
    "dots": "products with weights are kept; norms, activations and attention are computed again",
    "blocks": "a block's input is kept; the rest of it is computed again, a third more time",
}


def with_remat(block: type[nn.Module], policy: str) -> type[nn.Module]:
    """Apply a policy of `REMAT` to a block (Chen et al. 2016, arXiv 1604.06174)."""
    if policy not in REMAT:
        raise ValueError(f"there is no remat {policy!r}; known: {', '.join(REMAT)}.")
    if policy == "none":
        return block
    rules = jax.checkpoint_policies
    named = rules.save_only_these_names(DOT_NAME)
    kept = rules.save_from_both_policies(rules.dots_with_no_batch_dims_saveable, named)
    return nn.remat(block, policy=kept if policy == "dots" else None)


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Sizes of one transformer tower; the names are Hugging Face's."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        if self.num_attention_heads <= 0 or self.hidden_size % self.num_attention_heads:
            heads = f"num_attention_heads {self.num_attention_heads}"
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of {heads}.")
        if self.hidden_act not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            raise ValueError(f"unknown hidden_act {self.hidden_act!r}; known: {known}.")

    @property
    def residual_std(self) -> float:
        """Initial std of what a block adds: width^-1/2 (2 layers)^-1/2, as in OpenAI's code."""
        return (2 * self.num_hidden_layers * self.hidden_size) ** -0.5


class Attention(nn.Module):
    """Multi-head self-attention, [B, T, D] -> [B, T, D]; `kernel` as in `attend`.

    With `query`, one token per example [B, 1, D], only this one attends, to the first `lengths`
    tokens (`attend_pooled`): -> [B, 1, D].
    """

    config: TowerConfig
    causal: bool
    dtype: Any
    kernel: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, query=None, lengths=None) -> jax.Array:
        width, heads = x.shape[-1], self.config.num_attention_heads
        dense = lambda name, std: Dense(width, std, self.dtype, name=name)
        split = lambda y: y.reshape(*y.shape[:2], heads, width // heads)
        asking = x if query is None else query
        q, k, v = (
            split(dense(name, width**-0.5)(inputs))
            for name, inputs in (("q_proj", asking), ("k_proj", x), ("v_proj", x))
        )
        if query is None:
            y = attend(q, k, v, causal=self.causal, kernel=self.kernel)
        else:
            check_kernel(self.kernel, self.dtype)
            y = attend_pooled(q, k, v, lengths)
        return dense("out_proj", self.config.residual_std)(y.reshape(asking.shape))


class Block(nn.Module):
    """Pre-norm transformer block, [B, T, D] -> [B, T, D].

    With `token`, one per example [B, 1, D], only its output is computed (`Attention`).
    """

    config: TowerConfig
    causal: bool
    dtype: Any
    kernel: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, token=None, lengths=None) -> jax.Array:
        cfg, shared = self.config, (self.dtype, self.kernel)
        norm1 = LayerNorm(cfg.layer_norm_eps, name="layer_norm1")
        attention = Attention(cfg, self.causal, *shared, name="self_attn")
        y = norm1(x).astype(self.dtype)
        if token is None:
            x = x + attention(y)
        else:
            x = token + attention(y, norm1(token).astype(self.dtype), lengths)
        y = LayerNorm(cfg.layer_norm_eps, name="layer_norm2")(x).astype(self.dtype)
        width = cfg.hidden_size
        dense = lambda *sizes, name: Dense(*sizes, self.dtype, name=name)
        y = dense(cfg.intermediate_size, (2 * width) ** -0.5, name="fc1")(y)
        y = ACTIVATIONS[cfg.hidden_act](y)
        y = dense(width, cfg.residual_std, name="fc2")(y)
        return x + y


def run_blocks(
    tower: nn.Module,
    x: jax.Array,
    pick: Callable,
    lengths=None,
    *,
    causal: bool,
    every: bool,
    deep: jax.Array | None = None,
    place: int = 0,
) -> tuple[jax.Array, list[jax.Array]]:
    """Apply the blocks of a tower, [B, T, D] -> the pooled token [B, 1, D], and all hidden states.

    Unless `every` token's last state is wanted, the last block computes only the token that `pick`
    takes, [B, T, D] -> [B, 1, D], which saves five sixths of its products. `deep` [J - 1, n, D]
    are tokens that replace those from `place` on at the inputs of blocks 1 to J - 1 (deep prompts:
    Jia et al. 2022, arXiv 2203.12119).

    ValueError: deep prompts for more blocks than there are.
    """
    hidden, count = [x], tower.config.num_hidden_layers
    check_depth(deep, count)
    block = with_remat(Block, tower.remat)
    shared = (tower.config, causal, tower.dtype, tower.kernel)
    for i in range(count):
        if deep is not None and 1 <= i <= len(deep):
            x = replace_tokens(x, deep[i - 1], place)
        only = () if every or i < count - 1 else (pick(x), lengths)
        x = block(*shared, name=f"block_{i}")(x, *only)
        hidden.append(x)
    return pick(x) if every or not count else x, hidden


def check_depth(deep: jax.Array | None, blocks: int) -> None:
    """Raise ValueError for deep prompts [J - 1, n, D] of a tower that has fewer blocks than J."""
    if deep is not None and len(deep) > blocks - 1:
        told = f"deep prompts of depth {len(deep) + 1} in a tower of {blocks} blocks"
        raise ValueError(f"{told}; give a depth of at most {blocks}.")


def replace_tokens(x: jax.Array, tokens: jax.Array, place: int) -> jax.Array:
    """Put tokens [n, D] in place of those from `place` on, of every row of [B, T, D]."""
    tokens = jnp.broadcast_to(tokens.astype(x.dtype), (len(x), *tokens.shape))
    return jnp.concatenate([x[:, :place], tokens, x[:, place + tokens.shape[1] :]], axis=1)
