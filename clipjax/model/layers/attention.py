"""Softmax attention and the kernels that can compute it."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from clipjax.errors import ConfigError

KERNELS = (None, "xla", "cudnn")
_REMEDY = "use kernel='xla', or None for JAX's choice"


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool, kernel: str | None = None
) -> jax.Array:
    """Compute softmax(q k^T / sqrt(D)) v for every head, three times [B, T, H, D] -> [B, T, H, D].

    Softmax is in float32 whatever the dtype of inputs and output. The kernel is "xla"; "cudnn"
    (flash attention, Dao et al. 2022, arXiv 2205.14135), which never holds the T x T scores; or
    None: JAX's choice, but in float32 `attend_cpu` in a program lowered for CPU. All give the same
    numbers up to rounding. Raises ConfigError for a kernel that cannot run here.
    """
    check_kernel(kernel, q.dtype)
    if kernel is None and q.dtype == jnp.float32:
        return lax.platform_dependent(q, k, v, cpu=_CPU[causal], default=_PLAIN[causal])
    try:
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=kernel)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if kernel != "cudnn":
            raise
        # An old cuDNN or GPU, or a head width the kernel lacks: only cuDNN knows.
        why = " ".join(str(error).split())[:200].rstrip(".")
        raise ConfigError(f"attention kernel 'cudnn' refused ({why}); {_REMEDY}.") from None


def attend_cpu(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool) -> jax.Array:
    """Compute `attend` with heads in the batch axis, where XLA's CPU backend copies nothing."""
    batch, tokens, heads, width = q.shape
    q, k, v = (jnp.moveaxis(x, 2, 1).reshape(batch * heads, -1, width) for x in (q, k, v))
    scores = jnp.einsum("nqd,nkd->nqk", q, k) * width**-0.5
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[1:], bool))
        scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
    y = jnp.einsum("nqk,nkd->nqd", jax.nn.softmax(scores, axis=-1), v)
    return jnp.moveaxis(y.reshape(batch, heads, tokens, width), 1, 2)


# The same functions for every block, so that JAX traces each but once a shape.
_CPU = [partial(attend_cpu, causal=causal) for causal in (False, True)]
_PLAIN = [partial(jax.nn.dot_product_attention, is_causal=causal) for causal in (False, True)]


def attend_pooled(
    q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array | None = None
) -> jax.Array:
    """`attend` for one query per example, [B, 1, H, D], twice [B, T, H, D] -> [B, 1, H, D].

    The query sees the first `lengths` tokens, int [B]; None: all.
    """
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="xla"
    )


def check_kernel(kernel: str | None, dtype: jnp.dtype) -> None:
    """Raise ConfigError for a kernel that cannot run here."""
    if kernel not in KERNELS:
        known = ", ".join(map(repr, KERNELS))
        raise ConfigError(f"there is no attention kernel {kernel!r}; known: {known}.")
    if kernel != "cudnn":
        return
    fault = ""
    if (backend := jax.default_backend()) != "gpu":
        fault = f"needs an NVIDIA GPU and JAX runs on the {backend} here"
    elif dtype not in (jnp.float16, jnp.bfloat16):
        fault = f"computes in half precision only, not in {dtype}"
    if fault:
        raise ConfigError(f"attention kernel 'cudnn' {fault}; {_REMEDY}.")
