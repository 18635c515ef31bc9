"""Several source domains: their examples together, each a domain of its own to DANN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import DannModel
from clipjax.adapt.dann import dann_loss
from clipjax.adapt.losses import weigh
from clipjax.study import Data, Encoder, Study, Training, run
from tests.conftest import make_photos

RNG = np.random.default_rng(0)
MODEL = DannModel(
    lambda p, x, rng: x @ p["body"], lambda p, f: f @ p["head"], lambda p, f: f @ p["domain"]
)
PARAMS = {
    name: jnp.asarray(RNG.normal(size=shape), jnp.float32)
    for name, shape in {"body": (5, 4), "head": (4, 3), "domain": (4, 3)}.items()
}


@pytest.mark.slow
def test_the_domain_loss_is_a_mean_over_each_domain():
    inputs = RNG.normal(size=(2, 7, 5)).astype(np.float32)
    domain, mask = np.array([0, 0, 1, 0, 1, 0, 0]), np.array([True] * 6 + [False])
    source = {"inputs": inputs[0], "label": np.arange(7) % 3, "mask": mask}
    source["domain"] = np.eye(2, dtype=np.float32)[domain]
    batch = {"source": source, "target": {"inputs": inputs[1]}}
    found = jax.jit(lambda p: dann_loss(MODEL, p, batch, 0.5)[1])(PARAMS)
    logp = [np.asarray(jax.nn.log_softmax(x @ PARAMS["body"] @ PARAMS["domain"])) for x in inputs]
    rows = [np.flatnonzero(mask & (domain == d)) for d in (0, 1)]
    each = [-logp[0][rows[0], 0].mean(), -logp[1][:, 1].mean(), -logp[0][rows[1], 2].mean()]
    assert float(found["domain_loss"]) == pytest.approx(np.mean(each), rel=1e-5)
    # In parts, as on devices, and joined.
    halves = jax.tree.map(lambda x: jnp.asarray(x)[:6].reshape(2, 3, *x.shape[1:]), batch)
    shares = jax.vmap(
        lambda part: dann_loss(MODEL, PARAMS, part, 0.5, joined=True, axis_name="i")[1],
        axis_name="i",
    )(halves)
    whole = dann_loss(MODEL, PARAMS, jax.tree.map(lambda x: x[:6], batch), 0.5)[1]
    assert float(shares["domain_loss"].mean()) == pytest.approx(
        float(whole["domain_loss"]), rel=1e-5
    )


def test_parts_without_a_mask_are_weighed_by_domain_too():
    part = {"inputs": jnp.ones((4, 1)), "domain": jnp.eye(2)[jnp.array([0, 0, 0, 1])]}
    weights = weigh({"source": part})["source"]["domain_weight"]
    np.testing.assert_allclose(weights.mean(axis=0), 1)
    assert float(weights[3, 1]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("augment", [None, {"smallest": 0.9}])
def test_a_study_trains_on_both_and_evaluates_each(wee_clip, tmp_path, augment):
    make_photos(tmp_path / "photos")
    make_photos(tmp_path / "more")
    (tmp_path / "more" / "sketch").rename(tmp_path / "photos" / "print")
    heads = {"adapter": (4,), "classifier": (), "discriminator": (4,)}
    found = run(
        Study(
            encoder=Encoder(model=str(wee_clip)),
            data=Data(root=str(tmp_path / "photos"), source=("real", "print"), target="sketch"),
            training=Training(seeds=(0,), epochs=1, batch_size=4),
            methods={"dann": {"loss": "dann", "heads": heads, "augment": augment}},
            stages=("dann",),
        )
    )
    assert found.params["dann"]["discriminator"]["layer_1"]["bias"].shape == (1, 3)
    domains = {row["domain"] for row in found.rows if row["method"] == "dann"}
    assert domains == {"real", "print", "sketch", "real+print"}
    assert found.results["data"]["source"] == "real+print"
    for method in ("zero_shot", "dann"):  # the joined domains are its groups
        rows = {r["domain"]: r for r in found.rows if (r["method"], r["split"]) == (method, "test")}
        worst = min(rows[domain]["accuracy_mean"] for domain in ("real", "print"))
        assert rows["real+print"]["worst_group_accuracies"] == [worst]
        assert rows["real+print"]["worst_groups"][0] in ("real", "print")
        assert "worst_groups" not in rows["sketch"]
