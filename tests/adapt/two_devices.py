"""Each method's loss and gradient on one device, and on two that share a padded batch.

Run as a module on two devices; it prints {method: [loss, padded loss, largest difference of the
gradients, largest gradient]}. Of few-shot methods five images count; the second device has one of
them, and NaN. Of the adaptation's losses rows are those of their own tests.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt import (
    cite,
    clip_adapter,
    clipood,
    cocoop,
    coop,
    finetune,
    flyp,
    kgcoop,
    lora,
    maple,
    mcd,
    promptsrc,
    tip_f,
)
from clipjax.adapt.dann import make_loss
from clipjax.adapt.lora import PROJECTIONS
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes, Words
from clipjax.adapt.terms import add_terms
from clipjax.model.backbone import make_head
from clipjax.model.clip import normalize
from clipjax.model.heads import Heads
from clipjax.train.distributed.sharding import deal_out, make_mesh, replicate
from tests.adapt import test_adversarial, test_anchored, test_classics
from tests.conftest import small_config

REAL, ROWS, BOS, EOS, STOP = 5, 8, 98, 99, 50
NAMES, WORDS = ("oak", "elm", "ash"), np.array([10, 11, 12, 10])
PROMPTS = {"words": "a photo of a"}
DEEP = PROMPTS | {"depth": 2, "tokens": 2}
# Module, options, heads: None of methods that take none, {} a linear one, "text" CLIP's own.
METHODS = {
    "coop": (coop, PROMPTS, None),
    "kgcoop": (kgcoop, {}, None),
    "cocoop": (cocoop, {}, None),
    "maple": (maple, DEEP, None),
    "promptsrc": (promptsrc, DEEP, None),
    "clip_adapter": (clip_adapter, {}, None),
    "tip_f": (tip_f, {"shots": 2, "ratios": (1.0,), "sharpnesses": (2.0,)}, None),
    "lora": (lora, {"dropout": 0.0}, None),
    "ft_probe": (finetune, {}, {}),
    "finetune": (finetune, {}, {"text": True}),
    "flyp": (flyp, {}, {"text": True}),
    "clipood": (clipood, {}, None),
    "clip_cite": (cite, {}, {"text": True}),
    "coop_scl_vld": (coop, PROMPTS, None),
}
ADVERSARIAL = {
    "dann": make_loss(test_adversarial.model(), schedule="constant", lam_max=0.5),
    "penalty": make_loss(test_adversarial.model(), schedule="constant", penalty=0.5),
    "mcd": mcd.make_loss(test_adversarial.model()),
}
CLASSICS = ("cdan+e", "coral", "mmd", "jan", "mcc", "afn", "bnm")
ANCHORED = ("cmkd", "shot", "distill", "fixmatch")
CLASSIC, ANCHOR = test_classics.in_float32(test_classics.PARAMS), test_anchored.PARAMS
ADAPTED = (*CLASSICS, *ANCHORED, *ADVERSARIAL)
TRAINS_CLIP = ("ft_probe", "finetune", "flyp", "clipood", "clip_cite")


def given():
    """Towers of one layer, quick to compile, three classes, images [ROWS, 32] and labels."""
    config, rng = small_config(), np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)
    tower = lambda width: {
        f"block_{i}": {"self_attn": {n: {"kernel": draw(width, width)} for n in PROJECTIONS}}
        for i in range(2)
    }
    clip = {"vision": tower(32), "text": tower(24) | {"token_embedding": draw(100, 24)}}
    clip |= {"logit_scale": jnp.float32(2.0)}

    def run(blocks, hidden, tokens, deep):
        for each in filter(lambda x: x is not None, (tokens, deep)):
            hidden = hidden + each.reshape(-1, each.shape[-1]).mean(axis=0)
        for block in (blocks["block_0"], blocks["block_1"]):
            layers = block["self_attn"]
            hidden = jnp.tanh(hidden @ sum(layers[name]["kernel"] for name in PROJECTIONS))
        return normalize(hidden[:, :16])

    table = lambda params: params["clip"]["text"]["token_embedding"]
    image = lambda params, inputs, rng=None, tokens=None, deep=None: run(
        params["clip"]["vision"], inputs, tokens, deep
    )

    def text(params, ids, words=None, deep=None):
        found = table(params)[ids] if words is None else words
        return run(params["clip"]["text"], found.mean(axis=1), None, deep)

    backbone = Backbone(
        {"image": image, "text": text},
        lambda params: jnp.exp(params["clip"]["logit_scale"]),
        lambda params, ids: table(params)[ids],
        {},
        sizes=config,
        words={"a photo of a": Words(WORDS, np.asarray(clip["text"]["token_embedding"])[WORDS])},
    )
    pad = lambda ids: (ids + [EOS] * 12)[:12]
    bare = np.array([pad([BOS, 20 + k, STOP]) for k in range(3)], np.int32)
    tokens = np.array([[pad([BOS, *WORDS, 20 + k, STOP])] for k in range(3)], np.int32)
    weights = np.asarray(normalize(jnp.asarray(rng.normal(size=(3, 16)), jnp.float32)))
    inputs = rng.normal(size=(ROWS, 32)).astype(np.float32)
    classes = Classes(NAMES, tokens, weights, 7.0, bare)
    return backbone, clip, classes, inputs, np.arange(ROWS, dtype=np.int32) % 3


def far(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def adapted(mesh) -> dict[str, list[float]]:
    """The same of the losses of adaptation, of each family in one program."""
    even = lambda x: x if len(x) % 2 == 0 else np.concatenate([x, x[-1:]])  # a row more, of padding
    found = {}
    families = (
        ({n: test_classics.LOSSES[n][0] for n in CLASSICS}, CLASSIC, test_classics.batch_of),
        ({n: test_anchored.LOSSES[n] for n in ANCHORED}, ANCHOR, test_anchored.batch_of),
        (ADVERSARIAL, test_adversarial.single(), test_adversarial.batch),
    )
    for losses, params, batch in families:
        real, padded = batch(), batch(np.nan)

        def run(params, batch, losses=losses):
            one = lambda loss: jax.value_and_grad(lambda p: loss(p, weigh(batch), None, 0.5)[0])
            return {name: one(loss)(params) for name, loss in losses.items()}

        whole = jax.jit(run)(params, real)
        cut = jax.jit(run)(replicate(params, mesh), deal_out(jax.tree.map(even, padded), mesh))
        for name, (value, gradient) in whole.items():
            apart = max(jax.tree.leaves(jax.tree.map(far, gradient, cut[name][1])))
            size = max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient))
            found[name] = [float(value), float(cut[name][0]), apart, size]
    return found


def main() -> None:
    backbone, clip, classes, inputs, label = given()
    mask = np.arange(ROWS) < REAL
    whole = {"inputs": inputs[:REAL], "label": label[:REAL]}
    padded = {"inputs": np.where(mask[:, None], inputs, np.nan), "mask": mask}
    padded["label"] = np.where(mask, label, -100).astype(np.int32)
    mesh = make_mesh(jax.devices())
    assert mesh.size == 2
    teacher, found = {"teacher": jax.tree.map(lambda x: 0.9 * x, clip)}, {}
    for name, (module, options, heads) in METHODS.items():
        more = {} if heads is None else {"head": make_head(Heads(3, **heads), backbone, classes)}
        made = module.make_method(backbone, classes, **options, **more)
        if name == "coop_scl_vld":
            made = add_terms(made, backbone, classes, contrastive_weight=0.7, distill_weight=0.1)
        noise = lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape)
        own = jax.tree.map(noise, made.init(jax.random.key(0)))
        if made.start is not None:  # from embeddings of the images
            unit = classes.weights[label[:REAL] % 3]
            own = made.start({"source": {"inputs": unit, "label": whole["label"]}}, classes, own)
        trained = own | {"clip": clip} if name in TRAINS_CLIP else own

        def run(trained, fixed, source, made=made):
            loss = lambda p: made.loss(fixed | p, {"source": source}, jax.random.key(1), 0.0)[0]
            return jax.value_and_grad(loss)(trained)

        fixed = {"clip": clip} | teacher
        value, gradient = jax.jit(run)(trained, fixed, whole)
        placed = (replicate(trained, mesh), replicate(fixed, mesh), deal_out(padded, mesh))
        other, cut = jax.jit(run)(*placed)
        apart = jax.tree.map(far, gradient, cut)
        size = [float(np.abs(x).max()) for x in jax.tree.leaves(gradient)]
        found[name] = [float(value), float(other), max(jax.tree.leaves(apart)), max(size)]
    print(json.dumps(found | adapted(mesh)))


if __name__ == "__main__":
    main()
