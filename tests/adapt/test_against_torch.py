"""DANN against PyTorch, written from the equations of Ganin et al. 2016 (arXiv 1505.07818)."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt.dann import dann_loss, make_loss
from clipjax.adapt.step import init_state, make_step
from clipjax.model.heads import Heads, as_model
from clipjax.train.optim import Rule, make_optimizer
from clipjax.train.schedules import make_schedule

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install -e ".[parity]"')

WIDTH, CLASSES, BATCH, STEPS = 6, 4, 12, 5
SMOOTHING, LAM_MAX, GAMMA = 0.1, 0.8, 10.0
PARTS = ("adapter", "classifier", "discriminator")
ENSEMBLE = pytest.mark.parametrize("members", [1, 3], ids=["one head", "ensemble"])


def make_heads(members):
    return Heads(
        num_classes=CLASSES, adapter=(8, 7), classifier=(5,), discriminator=(6,), members=members
    )


def initial_params(heads):
    """Random weights, every bias away from zero."""
    shapes = jax.eval_shape(heads.init, jax.random.key(0), jnp.zeros((1, WIDTH)))["params"]
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        scale = 0.1 if path[-1].key == "bias" else leaf.shape[-2] ** -0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def numpy_batches():
    """Batches of two domains; of the last, 5 source and 8 target rows count."""
    rng = np.random.default_rng(2)
    batches = []
    for step in range(STEPS):
        last = step == STEPS - 1
        source, target = rng.standard_normal((2, BATCH, WIDTH)).astype(np.float32)
        target = 0.7 * target + 0.5
        labels, count = rng.integers(CLASSES, size=BATCH), (5, 8) if last else (BATCH, BATCH)
        batches.append({"source": source, "label": labels, "target": target, "count": count})
    return batches


def as_jax(batch):
    """The batch with its padding, which holds numbers that would be noticed."""
    masks = [np.arange(BATCH) < n for n in batch["count"]]
    spoil = lambda x, mask: jnp.asarray(np.where(mask[:, None], x, 50.0))
    source = {"inputs": spoil(batch["source"], masks[0]), "label": jnp.asarray(batch["label"])}
    return {
        "source": source | {"mask": jnp.asarray(masks[0])},
        "target": {"inputs": spoil(batch["target"], masks[1]), "mask": jnp.asarray(masks[1])},
    }


def as_torch(batch):
    """(source, labels, target) without any padding."""
    source, target = batch["count"]
    return (
        torch.tensor(batch["source"][:source]),
        torch.tensor(batch["label"][:source]).long(),
        torch.tensor(batch["target"][:target]),
    )


class Reversal(torch.autograd.Function):
    """Equations 16 and 17: R(x) = x, dR/dx = -I, its strength lambda."""

    @staticmethod
    def forward(ctx, x, lam):
        ctx.lam = lam
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.lam * gradient, None


def mlp(layers):
    modules = []
    for name in sorted(layers):
        kernel, bias = layers[name]["kernel"], layers[name]["bias"]
        linear = torch.nn.Linear(*kernel.shape)
        linear.weight.data = torch.tensor(np.array(kernel).T.copy())
        linear.bias.data = torch.tensor(np.array(bias))
        modules += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


class Ganin(torch.nn.Module):
    """Figure 1: G_f, G_y (one or several) and G_d."""

    def __init__(self, params, members):
        super().__init__()
        self.adapter = torch.nn.Sequential(mlp(params["adapter"]), torch.nn.ReLU())
        one = params["classifier"]
        stacked = one if members > 1 else jax.tree.map(lambda x: x[None], one)
        each = [jax.tree.map(lambda x, m=m: x[m], stacked) for m in range(members)]
        self.classifier = torch.nn.ModuleList(map(mlp, each))
        self.discriminator = mlp(params["discriminator"])

    def losses(self, batch, lam=None):
        """L_y, and per domain L_d; behind the reversal layer if there is a lambda."""
        source, labels, target = as_torch(batch)
        f = [self.adapter(x) for x in (source, target)]
        by_class = sum(
            torch.nn.functional.cross_entropy(head(f[0]), labels, label_smoothing=SMOOTHING)
            for head in self.classifier
        ) / len(self.classifier)
        if lam is not None:
            f = [Reversal.apply(x, lam) for x in f]
        by_domain = [
            torch.nn.functional.cross_entropy(self.discriminator(x), torch.full((len(x),), d))
            for d, x in enumerate(f)
        ]
        return by_class, by_domain

    def tree(self, pick):
        """`pick(parameter)` of all parameters, in the layout of the Flax tree."""

        def layers(sequence):
            linear = [m for m in sequence.modules() if isinstance(m, torch.nn.Linear)]
            return {
                f"layer_{i}": {"kernel": pick(m.weight).numpy().T, "bias": pick(m.bias).numpy()}
                for i, m in enumerate(linear)
            }

        members = [layers(head) for head in self.classifier]
        return {
            "adapter": layers(self.adapter),
            "classifier": members[0]
            if len(members) == 1
            else jax.tree.map(lambda *x: np.stack(x), *members),
            "discriminator": layers(self.discriminator),
        }


def close(ours, theirs, relative=1e-5):
    """Every leaf, relative to the largest entry of its tensor."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, one), two in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        size = np.abs(two).max()
        assert size > 1e-4, f"{path}: a gradient of nothing tests nothing"
        np.testing.assert_allclose(one, two, rtol=0, atol=relative * size, err_msg=str(path))


def gradients(heads, params, batch, lam, **options):
    """clipjax's DANN loss and its gradients."""

    def loss(params, batch):
        return dann_loss(as_model(heads), params, batch, lam, label_smoothing=SMOOTHING, **options)

    (value, _), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, as_jax(batch))
    return value, grads


def lambdas():
    """Ganin et al. 2016, section 5.2.2, at the progress before each step."""
    progress = np.arange(STEPS) / STEPS
    return LAM_MAX * (2.0 / (1.0 + np.exp(-GAMMA * progress)) - 1.0)


@pytest.mark.slow
@ENSEMBLE
@pytest.mark.parametrize("padded", [False, True], ids=["whole batch", "masked batch"])
@pytest.mark.parametrize("joined", [False, True], ids=["domains apart", "domains joined"])
def test_loss_and_gradients_of_all_three_parts(members, padded, joined):
    heads, lam = make_heads(members), 0.6
    params, batch = initial_params(heads), numpy_batches()[-1 if padded else 0]
    value, grads = gradients(heads, params, batch, lam, joined=joined)
    net = Ganin(params, members)
    by_class, by_domain = net.losses(batch, lam)
    loss = by_class + sum(by_domain) / 2
    loss.backward()
    assert float(value) == pytest.approx(loss.item(), rel=1e-5)
    for part in PARTS:
        close(grads[part], net.tree(lambda p: p.grad)[part])


@pytest.mark.slow
@ENSEMBLE
def test_twice_the_domain_weight_is_the_papers_sum_over_domains(members):
    """Equations 9 and 13-15 as they stand: signed gradients of L_y and of the *sum* over domains,
    without a reversal layer. The discriminator's rate has no lambda, as section 5.2.2 says."""
    heads, lam = make_heads(members), 0.6
    params, batch = initial_params(heads), numpy_batches()[0]
    _, grads = gradients(heads, params, batch, lam, domain_weight=2.0)
    net, other = (Ganin(params, members) for _ in range(2))
    net.losses(batch)[0].backward()
    sum(other.losses(batch)[1]).backward()
    by_class = net.tree(lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
    by_domain = other.tree(lambda p: torch.zeros_like(p) if p.grad is None else p.grad)
    signed = jax.tree.map(lambda y, d: y - lam * d, by_class["adapter"], by_domain["adapter"])
    close(grads["adapter"], signed)
    close(grads["classifier"], by_class["classifier"])
    close(grads["discriminator"], by_domain["discriminator"])


def torch_optimizer(name, net, lr):
    """As torch users write it: no weight decay on biases."""
    named = list(net.named_parameters())
    groups = [
        {"params": [p for n, p in named if n.endswith("weight")], "weight_decay": 0.05},
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


@pytest.mark.slow
@ENSEMBLE
@pytest.mark.parametrize("name, lr, clip", [("adamw", 1e-2, 0.0), ("sgd", 5e-2, 0.1)])
def test_five_steps_with_a_scheduled_lambda_and_a_masked_last_batch(members, name, lr, clip):
    heads = make_heads(members)
    params, batches = initial_params(heads), numpy_batches()
    optimizer = make_optimizer(
        make_schedule("cosine", lr, STEPS), Rule(name), weight_decay=0.05, clip_norm=clip
    )
    loss = make_loss(
        as_model(heads), schedule="ganin", lam_max=LAM_MAX, gamma=GAMMA, label_smoothing=SMOOTHING
    )
    step = jax.jit(make_step(loss, optimizer, total_steps=STEPS))
    state = init_state(params, optimizer)

    net = Ganin(params, members)
    theirs = torch_optimizer(name, net, lr)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=STEPS)
    before = copy.deepcopy(net)
    for batch, lam in zip(batches, lambdas(), strict=True):
        state, metrics = step(state, as_jax(batch))
        theirs.zero_grad()
        by_class, by_domain = net.losses(batch, lam)
        value = by_class + sum(by_domain) / 2
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), clip or float("inf"))
        theirs.step()
        rates.step()
        assert float(metrics["lam"]) == pytest.approx(lam, rel=1e-5)
        assert float(metrics["loss"]) == pytest.approx(value.item(), rel=1e-5)
        assert float(metrics["grad_norm"]) == pytest.approx(norm.item(), rel=1e-5)
        assert norm > clip  # where there is a limit, it binds

    after = net.tree(lambda p: p.detach())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), state.params, after
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after, before.tree(lambda p: p.detach()))
    assert min(jax.tree.leaves(moved)) > 1e-3  # every tensor went somewhere
