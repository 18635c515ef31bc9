"""Every attention kernel against a softmax written out, forward and backward."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from clipjax.errors import ConfigError
from clipjax.model.clip import CLIP
from clipjax.model.layers.attention import attend, attend_cpu
from tests.conftest import random_params, small_config

SHAPE = (2, 7, 3, 8)  # batch, tokens, heads, width of a head: all different
GPU = jax.default_backend() == "gpu"
HALF = 2.0**-8  # rounding of bfloat16, relative


def inputs(dtype=jnp.float32):
    """q, k, v and the output's cotangent; scores spread enough for softmax to be far from flat."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(2 * rng.normal(size=SHAPE), dtype) for _ in range(4)]


def naive(q, k, v, causal):
    """The formula, written out; every head by itself."""
    tokens, width = SHAPE[1], SHAPE[3]
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(width)
    seen = np.arange(tokens)[:, None] >= np.arange(tokens) if causal else True
    weights = jnp.where(seen, jnp.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    weights = weights / weights.sum(axis=-1, keepdims=True)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def output_and_gradients(function, dtype):
    """The function's output and its pullback to q, k and v, as float32."""

    @jax.jit
    def run(q, k, v, cotangent):
        out, pull = jax.vjp(function, q, k, v)
        return out, *pull(cotangent.astype(out.dtype))

    results = run(*(x.astype(dtype) for x in inputs(jnp.bfloat16)))
    assert all(x.dtype == dtype and x.shape == SHAPE for x in results)
    return [np.asarray(x, np.float32) for x in results]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "kernel, dtype, tolerance",
    [
        (None, jnp.float32, 2e-6),
        ("xla", jnp.float32, 2e-6),
        (None, jnp.bfloat16, 2 * HALF),
        ("xla", jnp.bfloat16, 2 * HALF),
        pytest.param(
            *("cudnn", jnp.bfloat16, 2 * HALF),
            marks=pytest.mark.skipif(not GPU, reason="cuDNN's kernel needs an NVIDIA GPU"),
        ),
    ],
)
def test_kernels_agree_with_the_formula(kernel, dtype, tolerance, causal):
    expected = output_and_gradients(lambda q, k, v: naive(q, k, v, causal), jnp.float32)
    found = output_and_gradients(
        lambda q, k, v: attend(q, k, v, causal=causal, kernel=kernel), dtype
    )
    for name, one, two in zip(("output", "dq", "dk", "dv"), found, expected, strict=True):
        error = np.abs(one - two).max() / np.abs(two).max()
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize("causal", [False, True])
def test_the_way_on_cpu_agrees_with_the_formula(causal):
    ways = [
        output_and_gradients(f, jnp.float32)
        for f in (
            lambda q, k, v: attend_cpu(q, k, v, causal=causal),
            lambda q, k, v: naive(q, k, v, causal),
        )
    ]
    for found, expected in zip(*ways, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def products(platforms):
    """Products of an encoder exported for some platforms: of one batch axis, of more than one."""
    config, images = small_config(), np.zeros((2, 32, 32, 3), np.float32)
    encode = lambda p: CLIP(config).apply({"params": p}, images, method="encode_image")
    params = jax.eval_shape(lambda: random_params(config))
    text = export.export(jax.jit(encode), platforms=platforms)(params).mlir_module()
    axes = re.findall(r"stablehlo.dot_general .*batching_dims = \[([\d, ]+)\]", text)
    return sum("," not in a for a in axes), sum("," in a for a in axes)


def test_a_program_attends_in_the_way_of_the_platform_it_is_for():
    """The machine that exports may be a CPU; the one that runs it decides."""
    # Both products of the first block's attention; the last one's, for one token, are plain.
    assert products(("cpu",)) == (2, 2)
    assert products(("cuda",)) == products(("tpu",)) == (0, 4)
    # JAX writes each product once a platform where platforms differ in lowering it.
    of_one, of_more = products(("cpu", "cuda", "tpu"))
    assert of_one >= 2 and of_more == 2 * of_one, (of_one, of_more)


def test_a_causal_token_sees_itself_and_those_before_it():
    q, k, v, _ = inputs()
    for causal, changed in ((True, [False] * (SHAPE[1] - 1) + [True]), (False, [True] * SHAPE[1])):
        run = jax.jit(lambda k, causal=causal: attend(q, k, v, causal=causal))
        difference = np.asarray(run(k.at[:, -1].add(1.0)) - run(k))
        assert difference.any(axis=(0, 2, 3)).tolist() == changed


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel, dtype",
    [("xla", jnp.float32), ("cudnn", jnp.bfloat16)] if GPU else [("xla", "float32")],
)
def test_the_towers_pass_their_kernel_on(kernel, dtype):
    config = small_config()
    params = random_params(config)
    images = np.random.default_rng(5).normal(size=(2, 32, 32, 3)).astype(np.float32)
    one, two = (
        jax.jit(CLIP(config, jnp.dtype(dtype), name).apply)(
            {"params": params}, images, np.full((2, 5), 99, np.int32)
        )
        for name in (kernel, None)
    )
    np.testing.assert_allclose(one, two, rtol=1e-5 if kernel == "xla" else 0.02)


@pytest.mark.skipif(GPU, reason="this machine may have the kernel")
def test_a_kernel_that_this_machine_lacks_is_one_sentence():
    config = small_config()
    for method, x in (
        ("encode_image", np.zeros((1, 32, 32, 3), np.float32)),
        ("encode_text", np.zeros((1, 4), np.int32)),
    ):
        with pytest.raises(ConfigError) as caught:
            jax.eval_shape(
                lambda x, method=method: CLIP(config, jnp.bfloat16, "cudnn").init(
                    jax.random.key(0), x, method=method
                ),
                x,
            )
        assert str(caught.value).startswith(
            "attention kernel 'cudnn' needs an NVIDIA GPU and JAX runs on the cpu here; "
            "use kernel='xla'"
        )


def test_wishes_that_no_machine_fulfils_are_refused(monkeypatch):
    q, k, v, _ = inputs()
    with pytest.raises(ConfigError, match="'flash'; known: None, 'xla', 'cudnn'"):
        attend(q, k, v, causal=False, kernel="flash")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match="half precision only, not in float32"):
        attend(q, k, v, causal=False, kernel="cudnn")


@pytest.mark.skipif(GPU, reason="this machine may have the kernel")
def test_what_only_cudnn_knows_is_passed_on_in_one_sentence(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    q, k, v, _ = inputs(jnp.bfloat16)
    with pytest.raises(ConfigError, match=r"'cudnn' refused \(.+\); use kernel='xla'") as caught:
        attend(q, k, v, causal=False, kernel="cudnn")
    assert len(str(caught.value).splitlines()) == 1
