"""Penalised and spectrally normed discriminators, and MCD, against NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import DannModel
from clipjax.adapt import dann, mcd
from clipjax.adapt.discriminator import gradient_penalty, spectral_norm
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes, Head

N, P, F, K, H = 6, 5, 4, 3, 7
RNG = np.random.default_rng(0)
SHAPES = {"body": (P, F), "heads": (2, F, K)}
PARAMS = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
PARAMS["discriminator"] = {"in": RNG.normal(size=(F, H)), "out": RNG.normal(size=(H, 3))}
ROWS = {"source": RNG.normal(size=(N, P)), "target": RNG.normal(size=(N - 1, P))}
LABELS = RNG.integers(K, size=N)


def model(domains=2):
    layers = lambda p, f: jnp.tanh(f @ p["in"]) @ p["out"][:, :domains]
    return DannModel(
        lambda p, x, rng: jnp.tanh(x @ p["body"]),
        lambda p, f: jnp.einsum("nf,mfk->mnk", f, p["heads"]),
        lambda p, f: layers(p["discriminator"], f),
    )


def batch(padded=False):
    """Both domains; padded, with three more rows each that hold NaN."""
    found = {}
    for part, x in ROWS.items():
        rows = np.vstack([x, np.full((3, P), np.nan)]) if padded else x
        found[part] = {"inputs": jnp.asarray(rows, jnp.float32)}
        if padded:
            found[part]["mask"] = jnp.arange(len(rows)) < len(x)
    labels = np.append(LABELS, [-100] * 3) if padded else LABELS
    found["source"]["label"] = jnp.asarray(labels, jnp.int32)
    return found


def single(params=None):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params or PARAMS)


def slopes(domains):
    """Mean squared slopes of the log odds of each domain, by central differences in float64."""

    def odds(f, domain):
        z = np.tanh(f @ PARAMS["discriminator"]["in"]) @ PARAMS["discriminator"]["out"][:, :domains]
        return z[:, domain] - np.log(np.exp(np.delete(z, domain, axis=1)).sum(axis=1))

    found, of_domain = [], np.arange(N) % 2  # sources alternate: domains 0 and 2
    for domain in range(domains):
        x = ROWS["target" if domain == 1 else "source"]
        if domains == 3 and domain != 1:
            x = x[of_domain == (domain == 2)]
        f = np.tanh(x @ PARAMS["body"])
        steps = 1e-5 * np.eye(F)
        slope = [(odds(f + h, domain) - odds(f - h, domain)) / 2e-5 for h in steps]
        found.append(np.mean(np.sum(np.square(slope), axis=0)))
    return np.mean(found)


@pytest.mark.parametrize("domains", [2, 3], ids=["one source", "two sources"])
def test_the_penalty_is_the_squared_slope_of_the_odds(domains):
    given = batch(padded=True)
    if domains == 3:
        given["source"]["domain"] = jax.nn.one_hot(jnp.arange(N + 3) % 2, 2)
    made, plain = (
        jax.jit(
            jax.value_and_grad(
                lambda p, g=gamma: dann.dann_loss(model(domains), p, given, 0.7, penalty=g),
                has_aux=True,
            )
        )(single())
        for gamma in (0.4, 0.0)
    )
    (value, metrics), grads = made
    wanted = slopes(domains)
    assert float(metrics["gradient_penalty"]) == pytest.approx(wanted, rel=1e-4)
    assert float(value) == pytest.approx(float(plain[0][0]) + 0.2 * wanted, rel=1e-4)
    # It is of the discriminator alone: features and class heads have DANN's own gradients.
    for part in ("body", "heads"):
        np.testing.assert_allclose(grads[part], plain[1][part], atol=1e-6)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), grads, plain[1])["discriminator"]
    assert min(jax.tree.leaves(apart)) > 1e-3


def test_gradients_of_the_penalty_are_those_of_torchs_double_backward():
    torch = pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[parity]"')
    both = [np.tanh(ROWS[part] @ PARAMS["body"]) for part in ("source", "target")]
    layers = {k: torch.tensor(x, requires_grad=True) for k, x in PARAMS["discriminator"].items()}
    found = []
    for domain, f in enumerate(both):
        f = torch.tensor(f, requires_grad=True)
        z = torch.tanh(f @ layers["in"]) @ layers["out"][:, :2]
        odds = (z[:, domain] - z[:, 1 - domain]).sum()
        (slope,) = torch.autograd.grad(odds, f, create_graph=True)
        found.append((slope**2).sum(dim=1).mean())
    torch.stack(found).mean().backward()

    def ours(p):
        features = [jnp.asarray(f, jnp.float32) for f in both]
        return gradient_penalty(lambda f: model().discriminate(p, f), features, {}, {})

    grads = jax.jit(jax.grad(ours))(single())["discriminator"]
    for name, layer in layers.items():
        np.testing.assert_allclose(grads[name], layer.grad, rtol=1e-4, atol=1e-5)


def test_the_spectral_norm_is_the_largest_singular_value():
    values = jax.jit(jax.value_and_grad(lambda x: spectral_norm(x, 60)))
    for shape in ((7, 4), (5, 1)):
        matrix = RNG.normal(size=shape)
        u, s, v = np.linalg.svd(matrix)
        norm, gradient = values(jnp.asarray(matrix, jnp.float32))
        assert float(norm) == pytest.approx(s[0], rel=1e-4)
        np.testing.assert_allclose(gradient, np.outer(u[:, 0], v[0]), atol=5e-3)


def made(**options):
    """DANN as a study makes it, over features that are the inputs."""
    encode = {"image": lambda params, x, rng=None: x}
    backbone = Backbone(encode, None, None, {}, frozenset({"image"}))
    head = Head(lambda rng: single(), model(), None, None, (), 2, 2)
    classes = Classes(tuple("abc"), None, np.zeros((3, P), np.float32), 1.0)
    return dann.make_method(backbone, classes, head=head, schedule="constant", **options)


def test_a_spectrally_normed_discriminator_does_not_see_the_scale_of_its_layers():
    found = {}
    for spectral in (False, True):
        loss = jax.jit(made(spectral=spectral).loss)
        for scale in (1.0, 9.0):
            layers = {k: scale * x for k, x in PARAMS["discriminator"].items()}
            params = single(PARAMS | {"discriminator": layers})
            found[spectral, scale] = float(loss(params, batch(), None, 0.5)[1]["domain_loss"])
    assert found[True, 1.0] == pytest.approx(found[True, 9.0], rel=1e-5)
    assert abs(found[False, 1.0] - found[False, 9.0]) > 0.1
    norm = lambda x: x / np.linalg.svd(x, compute_uv=False)[0]
    first, last = (norm(PARAMS["discriminator"][k][:, :w]) for k, w in (("in", H), ("out", 3)))
    seen = [np.tanh(np.tanh(ROWS[part] @ PARAMS["body"]) @ first) @ last for part in ROWS]
    wanted = [
        np.mean(np.log(1 + np.exp(z[:, 1 - d] - z[:, d])))
        for d, z in enumerate(x[:, :2] for x in seen)
    ]
    assert found[True, 1.0] == pytest.approx(np.mean(wanted), rel=0.03)  # 8 rounds of the power


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": -1.0}, "penalty is -1.0; it must not be negative"),
        ({"penalty": 1.0, "domain_weight": 0}, "penalty is 1.0, of a domain loss that domain_wei"),
        ({"spectral": True, "domain_weight": 0}, "spectral is of a domain loss that domain_weigh"),
    ],
)
def test_options_without_an_effect_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        made(**options)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def np_mcd(p):
    """The class loss of both heads, and their discrepancy on the target."""
    answers = {part: softmax(np.tanh(x @ p["body"]) @ p["heads"]) for part, x in ROWS.items()}
    by_class = -np.mean(np.log(answers["source"][:, np.arange(N), LABELS]))
    return by_class, np.mean(np.abs(answers["target"][0] - answers["target"][1]))


@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
def test_mcds_heads_disagree_and_its_features_do_not_let_them(joined):
    loss = mcd.make_loss(model(), lam_max=0.7, weight=0.5, joined=joined)
    given = weigh(batch(padded=True))
    differentiate = jax.jit(jax.value_and_grad(lambda p: loss(p, given, None, 0.5), has_aux=True))
    (value, metrics), grads = differentiate(single())
    by_class, apart = np_mcd(PARAMS)
    assert float(metrics["discrepancy"]) == pytest.approx(apart, rel=1e-5)
    assert float(value) == pytest.approx(by_class - 0.5 * apart, rel=1e-5)
    for key, turn in (("heads", -0.5), ("body", 0.7 * 0.5)):
        toward = RNG.normal(size=PARAMS[key].shape)
        ends = [np_mcd(PARAMS | {key: PARAMS[key] + h * toward}) for h in (1e-5, -1e-5)]
        slope = (np.array(ends[0]) - ends[1]) / 2e-5
        found = float(np.sum(np.asarray(grads[key], np.float64) * toward))
        assert found == pytest.approx(slope[0] + turn * slope[1], rel=2e-3, abs=2e-5), key


def test_mcd_needs_two_heads():
    head = Head(lambda rng: {}, model(), None, None, (), 0, 3)
    backbone = Backbone({}, None, None, {})
    with pytest.raises(ValueError, match="two class heads, not 3; give heads.members=2"):
        mcd.make_method(backbone, None, head=head)
    with pytest.raises(ValueError, match="weight is -1"):
        mcd.make_loss(model(), weight=-1.0)
    with pytest.raises(ValueError, match="two heads give"):
        mcd.discrepancy(jnp.zeros((3, 2, 4)))
