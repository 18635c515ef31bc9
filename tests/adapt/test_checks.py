"""Labels and heads of another shape: told where shapes or values tell, NaN where only a device
knows, and one-logit discriminators as they are meant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax import DannModel, dann_step, init_state
from clipjax.adapt import finetune
from clipjax.adapt.dann import dann_loss
from clipjax.adapt.losses import domain_cross_entropy, smoothed_cross_entropy
from clipjax.adapt.step import make_step
from clipjax.errors import NonFiniteError
from clipjax.evaluate.metrics import accuracy, calibration_error, per_class_accuracy
from clipjax.train.journal import check_finite

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[parity]"')

RNG = np.random.default_rng(4)
N, K = 8, 3
SHAPES = {"body": (5, 4), "head": (4, K), "domain": (4, 2), "one": (4, 1)}
PARAMS = {k: jnp.asarray(RNG.normal(size=s), jnp.float32) for k, s in SHAPES.items()}
INPUTS = jnp.asarray(RNG.normal(size=(2, N, 5)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(K, size=N), jnp.int32)


def model(discriminate=lambda p, f: f @ p["domain"]):
    return DannModel(
        lambda p, x, rng: jnp.tanh(x @ p["body"]), lambda p, f: f @ p["head"], discriminate
    )


def batch(label=LABELS, **source):
    source = {"inputs": INPUTS[0], "label": label, **source}
    return {"source": source, "target": {"inputs": INPUTS[1]}}


ONE = {
    "[N, 1]": lambda p, f: f @ p["one"],
    "[N]": lambda p, f: (f @ p["one"])[:, 0],
}


@pytest.mark.slow
@pytest.mark.parametrize("shape, joined", [("[N, 1]", False), ("[N]", True)])
def test_one_logit_is_the_softmax_of_zero_and_it(shape, joined):
    two = lambda p, f: jnp.pad(f @ p["one"], ((0, 0), (1, 0)))
    differentiate = jax.jit(
        jax.value_and_grad(lambda p, m: dann_loss(m, p, batch(), 0.5, joined=joined), has_aux=True),
        static_argnums=1,
    )
    found, want = (differentiate(PARAMS, model(d)) for d in (ONE[shape], two))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, want)
    assert np.any(found[1]["one"])


def test_one_logit_is_torchs_binary_cross_entropy():
    source, target = RNG.normal(size=(2, N, 1)).astype(np.float32)
    loss, hits = domain_cross_entropy([jnp.asarray(source), jnp.asarray(target)], [None, None])
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    theirs = [
        bce(torch.tensor(x), torch.full((N, 1), float(d))) for d, x in enumerate((source, target))
    ]
    assert float(loss) == pytest.approx(float(sum(theirs)) / 2, rel=1e-6)
    assert [float(h) for h in hits] == [(source <= 0).mean(), (target > 0).mean()]


@pytest.mark.parametrize(
    "given, discriminate, says",
    [
        (batch(jax.nn.one_hot(LABELS, K)), None, r"float32 of shape \(8, 3\).*labels.argmax"),
        (batch(LABELS.astype(jnp.float32)), None, r"labels are float32 of shape \(8,\)"),
        (batch(LABELS[:, None]), None, r"int32 of shape \(8, 1\).*int \[8\]"),
        (batch(LABELS[:1]), None, r"int32 of shape \(1,\)"),
        (batch(LABELS > 0), None, "labels are bool"),
        (batch(mask=jnp.ones((N, 1), bool)), None, r"mask has shape \(8, 1\).*give \[8\]"),
        ({"source": batch()["source"]}, None, "no 'target'; it has 'source'"),
        ({"source": {"inputs": INPUTS[0]}, "target": {}}, None, "'source'. has no 'label'"),
        (batch() | {"target": {"inputs": INPUTS[1, :0]}}, None, "'target'.*empty, shape .0, 5."),
        (batch(inputs=INPUTS[0, :0], label=LABELS[:0]), None, "'source'.*'inputs'. is empty"),
        (batch(), lambda p, f: f @ p["head"][:, :0], r"shape \(8, 0\) for 2 domains"),
        (batch(), lambda p, f: jnp.sum(f), r"shape \(\) for 8 examples"),
        (batch(), lambda p, f: (f @ p["domain"])[None], r"shape \(1, \d+, 2\) for 8 examples"),
        (batch(), lambda p, f: jnp.mean(f @ p["domain"], 0), r"shape \(2,\) for 8 examples"),
        ((INPUTS[0], LABELS, INPUTS[1]), None, "the batch is of type tuple; a batch is {.source"),
        (batch() | {"target": INPUTS[1]}, None, "batch.'target'. is of type array; a batch is"),
        ({"source": {"inputs": INPUTS[0], "labels": LABELS}}, None, "Rename 'labels' to 'label'"),
        ({"sources": batch()["source"]}, None, "no 'source'.* Rename 'sources' to 'source'"),
        (batch(masks=jnp.ones(N, bool)), None, "'masks', which nothing reads.* to 'mask'"),
        (batch(idx=LABELS), None, "'idx', which nothing reads; known: .*Leave it out"),
        (
            batch() | {"target": {"inputs": INPUTS[1, :, :3]}},
            None,
            r"\[8, 5\] and batch.'target'.*\[8, 3\]",
        ),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_what_shapes_tell_is_refused_when_traced(given, discriminate, says, joined):
    chosen = model(*([discriminate] if discriminate else []))
    step = lambda s, b: dann_step(chosen, s, b, 0.5, optimizer=optax.sgd(0.1), joined=joined)
    says = says.replace("for 8", "for 16") if joined else says  # logits of both domains at once
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(step, init_state(PARAMS, optax.sgd(0.1)), given)


@pytest.mark.parametrize(
    "lam, says",
    [
        (jnp.ones(N), r"lam is an array of shape \(8,\); give a number"),
        ("ganin", "lam is 'ganin'; give a number"),
        (lambda progress: progress, r"give its value, lam\(step / total_steps\)"),
    ],
)
def test_a_strength_that_is_no_number_is_refused(lam, says):
    with pytest.raises(ValueError, match=says):
        dann_loss(model(), PARAMS, batch(), lam)


def test_states_features_and_lists_that_do_not_fit_are_refused():
    step = functools.partial(dann_step, lam=0.5, optimizer=optax.sgd(0.1))
    state = init_state(PARAMS, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"state is a dict; .*init_state\(params, optimizer\)"):
        step(model(), PARAMS, batch())
    for features, says in (
        (lambda p, x, rng: jnp.sum(x), r"model.features gives .* shape \(\) for 8 examples"),
        (lambda p, x, rng: (x, x), "model.features gives a tuple; it must give an array"),
    ):
        with pytest.raises(ValueError, match=says):
            step(model()._replace(features=features), state, batch())
    with pytest.raises(ValueError, match="'label'. holds int, no array; give jnp.asarray"):
        step(model(), state, batch(LABELS.tolist()))
    own = lambda p, x, rng: 1 + "x"  # an error of the function itself, not of the shapes
    with pytest.raises(TypeError, match="unsupported operand"):
        step(model()._replace(features=own), state, batch())


@pytest.mark.parametrize("joined", [False, True])
def test_inputs_may_be_trees_of_arrays(joined):
    tree = lambda b: {k: part | {"inputs": {"x": part["inputs"]}} for k, part in b.items()}
    inner = model().features
    of_trees = model()._replace(features=lambda p, x, rng: inner(p, x["x"], rng))
    want, _ = dann_loss(model(), PARAMS, batch(), 0.5, joined=joined)
    found, _ = dann_loss(of_trees, PARAMS, tree(batch()), 0.5, joined=joined)
    assert float(found) == float(want)


def test_one_logit_for_three_domains_or_for_classes_is_refused():
    with pytest.raises(ValueError, match=r"shape \(8, 1\) for 3 domains"):
        domain_cross_entropy([jnp.zeros((N, 1))] * 3, [None] * 3)
    with pytest.raises(ValueError, match="for two classes give two"):
        smoothed_cross_entropy(jnp.zeros(N), LABELS)


@pytest.mark.parametrize("wrong", [-1, K])
def test_labels_that_are_known_are_refused_by_value(wrong):
    labels = LABELS.at[2].set(wrong)
    says = rf"a label is {wrong}, but the logits are of 3 classes, numbered from 0 to 2"
    with pytest.raises(ValueError, match=says):
        dann_loss(model(), PARAMS, batch(labels), 0.5)
    loss = finetune.make_loss(model())
    with pytest.raises(ValueError, match=says):  # a constant of the program is known as well
        jax.jit(lambda p: loss(p, batch(labels), None, 0.0))(PARAMS)
    logits = INPUTS[0, :, :K]
    with pytest.raises(ValueError, match=says):
        per_class_accuracy(logits, labels, K)
    for metric in (accuracy, calibration_error):
        with pytest.raises(ValueError, match=says):
            metric(logits, labels)
        found = jax.jit(metric)
        assert np.isnan(found(logits, labels)).all() and not np.isnan(found(logits, LABELS)).all()


@pytest.mark.parametrize("wrong", [-1, K])
def test_a_traced_label_that_is_no_class_trains_nothing_unseen(wrong):
    """Loss, accuracy and parameters are NaN: under jit, in a scan, and with microbatches."""
    labels = LABELS.at[2].set(wrong)
    loss, optimizer = finetune.make_loss(model()), optax.sgd(0.1)
    for accumulate in (1, 2):
        step = make_step(loss, optimizer, total_steps=2, accumulate=accumulate)
        run = jax.jit(lambda s, b, f=step: jax.lax.scan(lambda s, _: f(s, b), s, None, 2))
        state, metrics = run(init_state(PARAMS, optimizer), batch(labels))
        assert np.isnan(metrics["loss"]).all() and np.isnan(metrics["source_accuracy"]).all()
        assert np.isnan(state.params["head"]).all()
        state, metrics = run(init_state(PARAMS, optimizer), batch())
        assert np.isfinite(metrics["loss"]).all() and np.isfinite(state.params["head"]).all()


def test_the_loops_name_labels_and_not_the_learning_rate():
    spoilt = {"loss": np.array([[1.0, np.nan]]), "grad_norm": np.ones((1, 2))}
    options = {"first_step": 4, "phase": "p", "last_good": None}
    with pytest.raises(NonFiniteError, match="at step 5 of phase 'p' because a label .* 0 to K-1"):
        check_finite(spoilt | {"source_accuracy": np.array([[0.5, np.nan]])}, **options)
    with pytest.raises(NonFiniteError, match="Lower optim.lr"):
        check_finite(spoilt | {"source_accuracy": np.array([[0.5, 0.5]])}, **options)
