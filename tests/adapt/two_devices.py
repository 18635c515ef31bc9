"""Each few-shot method's loss and gradient on one device, and on two that share a padded batch.

Run as a module on two devices; it prints {method: [loss, padded loss, largest difference of the
gradients, largest gradient]}. Five images count; the second device has one of them, and NaN.
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
    promptsrc,
    tip_f,
)
from clipjax.adapt.method import Classes, Words
from clipjax.adapt.terms import add_terms
from clipjax.model.backbone import make_backbone, make_head
from clipjax.model.clip import CLIP
from clipjax.model.heads import Heads
from clipjax.train.distributed.sharding import deal_out, make_mesh, replicate
from tests.conftest import random_params, small_config

REAL, ROWS, BOS, EOS, STOP = 5, 8, 98, 99, 50
NAMES, WORDS = ("oak", "elm", "ash"), np.array([10, 11, 12, 10])
PROMPTS = {"words": "a photo of a"}
DEEP = PROMPTS | {"depth": 1, "tokens": 2}
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
TRAINS_CLIP = ("ft_probe", "finetune", "flyp", "clipood", "clip_cite")


def given():
    """A CLIP of one block a tower over pixels, its parameters, three classes, images, labels."""
    one = {"num_hidden_layers": 1}
    config, rng = small_config(vision=one, text=one), np.random.default_rng(0)
    clip = random_params(config) | {"logit_scale": jnp.float32(2.0)}
    pad = lambda ids: (ids + [EOS] * 12)[:12]
    bare = np.array([pad([BOS, 20 + k, STOP]) for k in range(3)], np.int32)
    tokens = np.array([[pad([BOS, *WORDS, 20 + k, STOP])] for k in range(3)], np.int32)
    table = np.asarray(clip["text"]["token_embedding"])
    words = {"a photo of a": Words(WORDS, table[WORDS])}
    backbone = make_backbone(CLIP(config), lambda pixels, rng: pixels, (), words)
    weights = rng.normal(size=(3, 16)).astype(np.float32)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    pixels = rng.normal(size=(ROWS, 32, 32, 3)).astype(np.float32)
    classes = Classes(NAMES, tokens, weights, 7.0, bare)
    return backbone, clip, classes, pixels, np.arange(ROWS, dtype=np.int32) % 3


def main() -> None:
    backbone, clip, classes, pixels, label = given()
    mask = np.arange(ROWS) < REAL
    whole = {"inputs": pixels[:REAL], "label": label[:REAL]}
    padded = {"inputs": np.where(mask[:, None, None, None], pixels, np.nan), "mask": mask}
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
        far = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max())
        apart = jax.tree.map(far, gradient, cut)
        size = [float(np.abs(x).max()) for x in jax.tree.leaves(gradient)]
        found[name] = [float(value), float(other), max(jax.tree.leaves(apart)), max(size)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
