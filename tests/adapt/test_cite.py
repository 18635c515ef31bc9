"""CLIP-CITE's three losses and CLIPood's: reference values, padding, devices, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.adapt import cite, clipood, dann, finetune, flyp
from clipjax.adapt.contrastive import info_nce
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes, class_weights, compare_classes
from clipjax.adapt.similarities import (
    DENOMINATORS,
    DIRECTIONS,
    similarity_distillation,
    supervised_contrastive,
    visual_alignment,
)
from clipjax.adapt.terms import add_terms
from clipjax.errors import ConfigError
from clipjax.model.backbone import make_backbone, make_head, tower_params
from clipjax.model.clip import CLIP
from clipjax.model.heads import Heads
from clipjax.train.groups import is_frozen, name_tree
from tests.conftest import methods_of, random_params, random_tokens, small_config
from tests.study.test_study import config_of

S = np.array([[0.8, 0.3, 0.5], [0.2, 0.7, 0.1], [0.4, 0.1, 0.6]], np.float32)  # images and texts
TAUGHT = np.array([[0.7, 0.4, 0.4], [0.3, 0.6, 0.2], [0.5, 0.2, 0.5]], np.float32)
IDS, TEXTS = np.array([0, 1, 0]), np.eye(3, dtype=np.float32)
GARBAGE = (np.nan, np.inf, 3e38)
TWO = jnp.array([1.5, 1.5, 0.0])  # the first two of three rows count


@pytest.mark.parametrize(
    "kind, one, ten",
    [
        ("diagonal", 0.837039, 0.092724),
        ("exclude", 0.570797, 0.008730),
        ("negatives", -0.292911, -4.926635),
        ("soft", 0.920373, 0.926057),
    ],
)
def test_contrastive_values_of_three_pairs_two_of_a_class(kind, one, ten):
    of = jax.jit(lambda x, t, ids, *w: supervised_contrastive(x, t, ids, 1.0, kind, *w))
    np.testing.assert_allclose(of(S, TEXTS, IDS), one, atol=1e-6)
    np.testing.assert_allclose(of(10 * S, TEXTS, IDS), ten, atol=2e-6)
    alone = of(S[:2], TEXTS[:2], IDS[:2])
    want = jax.grad(of)(jnp.asarray(S[:2]), TEXTS[:2], IDS[:2])
    for garbage in GARBAGE:  # in a row of padding, of both
        spoil = lambda x: jnp.asarray(x).at[2].set(garbage)  # noqa: B023
        np.testing.assert_allclose(of(spoil(S), spoil(TEXTS), IDS, TWO), alone, atol=1e-6)
        found = jax.grad(of)(spoil(S), spoil(TEXTS), IDS, TWO)
        np.testing.assert_allclose(found[:2], want, atol=1e-6)
        assert not found[2].any()


def test_both_directions_of_equation_4_are_twice_their_mean():
    summed = 3 * 2 * supervised_contrastive(S, TEXTS, IDS, 1.0)
    np.testing.assert_allclose(summed, 3.424784, atol=1e-5)


def test_a_batch_of_different_classes_is_flyps_and_of_one_class_has_no_negatives():
    for kind in ("exclude", "diagonal", "soft"):
        found = supervised_contrastive(S, TEXTS, np.arange(3), 1.0, kind)
        np.testing.assert_allclose(found, info_nce(S, TEXTS, 1.0), rtol=1e-6)
    lone = lambda x: supervised_contrastive(x, TEXTS, np.zeros(3, int), 1.0, "negatives")
    assert float(lone(S)) == 0 and not jax.grad(lone)(jnp.asarray(S)).any()


@pytest.mark.parametrize("kind", DENOMINATORS)
def test_parts_of_a_batch_gather_the_others(kind):
    """As devices do: each part's mean gradient is that of the batch, padding on one part alone."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(2, 8, 5)).astype(np.float32)
    part = {"i": image, "t": text, "ids": rng.integers(3, size=8), "mask": np.arange(8) < 5}

    def loss(x, batch, axis=None):
        part = weigh({"source": batch}, axis)["source"]
        given = part["i"] * x, part["t"], part["ids"], 0.7, kind, part["weight"], axis
        value = supervised_contrastive(*given)
        return value if axis is None else jax.lax.pmean(value, axis)

    whole = jax.jit(jax.value_and_grad(loss))(jnp.ones(5), part)
    parts = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), part)
    cut = jax.vmap(jax.value_and_grad(lambda x, b: loss(x, b, "i")), (None, 0), axis_name="i")
    value, gradient = jax.jit(cut)(jnp.ones(5), parts)
    np.testing.assert_allclose(value, [whole[0]] * 2, rtol=1e-5)
    np.testing.assert_allclose(gradient.mean(axis=0), whole[1], rtol=1e-4, atol=1e-6)


def test_alignment_is_of_cosine_similarities():
    cosines, label = jnp.array([[0.8, 0.3], [0.2, 0.7], [0.6, 0.1]]), jnp.array([0, 1, 0])
    for scale, value in ((1.0, 0.474077), (10.0, 0.00671535)):
        for length in (1.0, 7.0):
            found = visual_alignment(cosines, length * jnp.eye(2), label, scale)
            np.testing.assert_allclose(found, value, rtol=1e-5)


def test_distillation_is_torchs_divergence_and_teaches_nothing_to_the_teacher():
    functional = pytest.importorskip("torch").nn.functional
    torch = pytest.importorskip("torch")
    values = dict(zip(DIRECTIONS, (0.133906, 0.186943), strict=True))
    logs = [functional.log_softmax(torch.tensor(10 * x), 1) for x in (S, TAUGHT)]
    for way, one in (("teacher_student", logs), ("student_teacher", logs[::-1])):
        kl = functional.kl_div(*one, reduction="batchmean", log_target=True)
        found = similarity_distillation(10 * S, 10 * TAUGHT, way)
        np.testing.assert_allclose(found, kl, rtol=1e-5)
        np.testing.assert_allclose(found, values[way], atol=1e-6)
        to_teacher = jax.grad(lambda t: similarity_distillation(S, t, way))  # noqa: B023
        assert not to_teacher(jnp.asarray(TAUGHT)).any()
        assert float(similarity_distillation(S, S, way)) == 0
    # PromptSRC sums and divides by all elements: this divided by the texts.
    promptsrc = similarity_distillation(10 * S, 10 * TAUGHT, "teacher_student") / 3
    np.testing.assert_allclose(promptsrc, 0.062314, atol=1e-6)


@pytest.mark.parametrize("way", DIRECTIONS)
def test_distillation_leaves_padding_out_as_image_and_as_text(way):
    of = lambda s, t, *w: similarity_distillation(10 * s, 10 * t, way, *w)
    alone, there = of(S[:2, :2], TAUGHT[:2, :2]), TWO != 0
    gradient = jax.grad(of)(jnp.asarray(S[:2, :2]), TAUGHT[:2, :2])
    for garbage in GARBAGE:
        spoil = lambda x: jnp.asarray(x).at[2].set(garbage).at[:, 2].set(garbage)  # noqa: B023
        np.testing.assert_allclose(of(spoil(S), spoil(TAUGHT), TWO, there), alone, atol=1e-6)
        found = jax.grad(of)(spoil(S), spoil(TAUGHT), TWO, there)
        np.testing.assert_allclose(found[:2, :2], gradient, atol=1e-6)
        assert not found[2].any() and not found[:, 2].any()


def test_a_margin_grows_with_how_unlike_the_texts_are():
    """Reference values; and the form with the margin taken off the image's own text."""
    text = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.5, 0, 0.75**0.5]], np.float32)
    image = jnp.asarray([np.linalg.solve(text, [0.30, 0.25, 0.20])], jnp.float32)
    for margin, value in ((0.0, 0.006760), (0.3, 5.024745)):
        found = clipood.margin_softmax(image, text, jnp.array([0]), 100.0, margin)
        np.testing.assert_allclose(found, value, rtol=2e-4)
        logits = 100 * (image - margin * text[0]) @ text.T
        np.testing.assert_allclose(-jax.nn.log_softmax(logits)[0, 0], value, rtol=2e-4)


CONFIG = small_config(vision={"num_hidden_layers": 1}, text={"num_hidden_layers": 1})
NAMES = ("a", "b", "c", "d", "e")  # the last two have one text
RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def clip():
    """(backbone, head, classes, parameters of both towers)."""
    params = random_params(CONFIG) | {"logit_scale": jnp.float32(1.0)}
    backbone = make_backbone(CLIP(CONFIG), lambda pixels, rng: pixels / 255.0)
    tokens = random_tokens(CONFIG, 5)[[0, 1, 2, 3, 3]][:, None]
    weights = jax.jit(lambda p, t: class_weights(backbone, {"clip": p}, t))(params, tokens)
    classes = Classes(NAMES, tokens, weights, backbone.scale({"clip": params}))
    return backbone, make_head(Heads(5, text=True), backbone, classes), classes, params


def batch_of(rows=3, real=3, garbage=0):
    pixels = np.full((rows, 32, 32, 3), garbage, np.uint8)
    pixels[:real] = RNG.integers(0, 256, (real, 32, 32, 3))
    label = np.array([3, 4, 0, *[7] * (rows - 3)][:rows], np.int32)
    part = {"inputs": pixels, "label": label}
    return {"source": part | ({"mask": np.arange(rows) < real} if rows > real else {})}


NOTHING = {"alignment_weight": 0.0, "contrastive_weight": 0.0, "distill_weight": 0.0}
REACHED = {
    "dva": {"vision", "table"},
    "scl": {"vision", "text"},
    "vld": {"vision", "text"},
    "cite": {"vision", "text", "table"},
    "dva by texts": {"vision", "text"},
    "clipood": {"vision"},
    "clipood + scl": {"vision"},
    "flyp": {"vision", "text", "logit_scale"},
    "cross-entropy + vld": {"vision", "text", "logit_scale"},
}


@pytest.fixture(scope="module")
def reached(clip):
    """Name of a loss -> the parts whose gradient is not 0; a teacher's is one of them."""
    backbone, head, classes, params = clip
    make = lambda **options: cite.make_method(backbone, classes, head=head, **options)
    margin, plain = clipood.make_method(backbone, classes), finetune.make_method
    made = {
        "dva": make(**NOTHING | {"alignment_weight": 1.0}),
        "scl": make(**NOTHING | {"contrastive_weight": 1.0}),
        "vld": make(**NOTHING | {"distill_weight": 1.0}),
        "cite": make(),
        "dva by texts": make(alignment="text"),
        "clipood": margin,
        "clipood + scl": add_terms(margin, backbone, classes, contrastive_weight=1.0),
        "flyp": flyp.make_method(backbone, classes, head=head),
        "cross-entropy + vld": add_terms(
            plain(backbone, classes, head=head), backbone, classes, distill_weight=1.0
        ),
    }
    moved = jax.tree.map(lambda x: x * 1.1, params)  # a student that has learned
    given = {"table": classes.weights, "clip": moved, "teacher": params}

    @jax.jit
    def all_of_them(given, batch):
        rng, loss = jax.random.key(1), lambda p, one: one.loss(p, batch, rng, 0.0)[0]
        found = {name: jax.grad(loss)(given, one) for name, one in made.items()}
        return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x).all(), jnp.abs(x).max(), -1), found)

    def parts(found):
        names = [name.group.split("/") for name in jax.tree.leaves(name_tree(found))]
        sizes = jax.tree.leaves(found)
        assert min(sizes) >= 0
        return {n[min(1, len(n) - 1)] for n, x in zip(names, sizes, strict=True) if x > 1e-9}

    return {name: parts(one) for name, one in all_of_them(given, batch_of()).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", REACHED)
def test_gradients_reach_the_parts_that_learn_and_no_teacher(reached, name):
    assert reached[name] == REACHED[name]


def value_of(clip, made, batch, transform=jax.value_and_grad):
    params = {**made.init(jax.random.key(0)), "clip": clip[3]}
    params["teacher"] = jax.tree.map(lambda x: 0.9 * x, tower_params(clip[3], ("image",)))
    loss = lambda p, b: made.loss(p, b, jax.random.key(1), 0.0)[0]
    return jax.jit(transform(loss))(params, batch)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"distill_over": "classes", "alignment": "text"}])
def test_padded_rows_change_nothing_whether_batch_or_classes_are_fewer(clip, options):
    """Three images and five classes, and six rows of which three count, from pixels."""
    made = cite.make_method(clip[0], clip[2], head=clip[1], **options)
    batch, padded = batch_of(), batch_of(6, garbage=255)
    padded["source"]["inputs"][:3] = batch["source"]["inputs"]
    one, other = value_of(clip, made, batch), value_of(clip, made, padded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), one, other)


def test_a_contrastive_loss_alone_is_flyps_where_its_denominator_is(clip):
    backbone, head, classes, _ = clip
    alone = NOTHING | {"contrastive_weight": 1.0, "contrastive_denominator": "diagonal"}
    ours = cite.make_method(backbone, classes, head=head, **alone)
    flyps = flyp.make_method(backbone, classes, head=head)
    value = lambda made, batch: value_of(clip, made, batch, transform=lambda loss: loss)
    one, other = (value(made, batch_of_again()) for made in (ours, flyps))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    soft = {"contrastive_weight": 1.0, "contrastive_denominator": "exclude"}  # one text, one set
    kept = cite.make_method(backbone, classes, head=head, **NOTHING | soft)
    batch = batch_of_again()
    batch["source"]["label"] = np.array([3, 4, 4], np.int32)
    assert float(value(kept, batch)) == pytest.approx(0, abs=1e-6)


def batch_of_again():
    pixels = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    return {"source": {"inputs": pixels, "label": np.array([3, 4, 0], np.int32)}}


def test_terms_are_added_and_told(clip):
    backbone, head, classes, params = clip
    made = finetune.make_method(backbone, classes, head=head)
    more = add_terms(made, backbone, classes, contrastive_weight=0.7, distill_weight=0.1)
    assert add_terms(made, backbone, classes) is made and not more.per_example
    assert more.reads == ("source", "teacher")
    given = {"clip": params, "teacher": tower_params(params, ("image",))}
    both = lambda p, batch: [m.loss(p, batch, jax.random.key(0), 0.0) for m in (made, more)]
    (plain, _), (value, told) = jax.jit(both)(given, batch_of_again())
    assert abs(float(told["distill_loss"])) < 1e-6  # nothing has been learned yet
    np.testing.assert_allclose(value, plain + 0.7 * told["contrastive_loss"], rtol=1e-5)
    assert told["negatives"] == pytest.approx(4 / 9)


def test_terms_stand_beside_the_loss_of_any_text_head(clip):
    """Of DANN, on embeddings made before."""
    _, head, classes, params = clip
    backbone = make_backbone(CLIP(CONFIG), lambda pixels, rng: pixels, ("image",))
    head = make_head(Heads(5, text=True, discriminator=(4,)), backbone, classes)
    image = RNG.normal(size=(2, 4, 16)).astype(np.float32)
    image /= np.linalg.norm(image, axis=-1, keepdims=True)
    batch = {"source": {"inputs": image[0], "label": np.arange(4)}, "target": {"inputs": image[1]}}
    made = dann.make_method(backbone, classes, head=head)
    own, names = made.init(jax.random.key(0)), ("contrastive_weight", "distill_weight")
    plain, more = (
        add_terms(made, backbone, classes, True, **dict(zip(names, weights, strict=True)))
        for weights in ((0.0, 0.0), (0.5, 0.1))
    )
    both = jax.jit(lambda own: [m.loss(own, batch, None, 0.5) for m in (plain, more)])
    (before, _), (value, told) = both({**own, "clip": params})
    added = 0.5 * told["contrastive_loss"] + 0.1 * told["distill_loss"]
    np.testing.assert_allclose(value - before, added, rtol=1e-4, atol=1e-6)
    assert more.reads == ("source", "target", "teacher") and added > 0


def test_a_teacher_must_be_there_and_be_of_the_students_kind(clip):
    backbone, head, classes, params = clip
    made = cite.make_method(backbone, classes, head=head)
    own = {**made.init(jax.random.key(0)), "clip": params}
    trace = lambda p: jax.eval_shape(made.loss, p, batch_of(), jax.random.key(0), 0.0)
    with pytest.raises(ValueError, match="distill_weight needs a teacher"):
        trace(own)
    other = random_params(small_config(projection=8))
    with pytest.raises(ValueError, match=r"teacher's text_projection/kernel is \(24, 8\), the st"):
        trace(own | {"teacher": other})
    with pytest.raises(ValueError, match=r"student's similarities are \(3, 3\), the teacher's"):
        similarity_distillation(S, TAUGHT[:, :2])


TEXT = {"loss": "cite", "heads": {"text": True}}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"heads": {}}, "m: cite answers by prompts; use heads = "),
        ({"alignment": "texts"}, "unknown alignment 'texts'; known: table, text"),
        ({"alignment_scale": -1.0}, "alignment_scale is -1.0; it must not be negative"),
        ({"contrastive_weight": -0.7}, "contrastive_weight is -0.7; it must not be negative"),
        ({"distill_weight": -0.1}, "distill_weight is -0.1; it must not be negative"),
        ({"contrastive_denominator": "all"}, "unknown contrastive_denominator 'all'; known: excl"),
        ({"distill_over": "images"}, "unknown distill_over 'images'; known: batch, classes"),
        ({"distill_direction": "both"}, "unknown distill_direction 'both'; known: student_teach"),
        ({"distill_weight": 0.0, "distill_over": "classes"}, "distill_over has no effect with dis"),
        ({"alignment_weight": 0.0, "alignment": "text"}, "alignment has no effect with alignment_"),
        (NOTHING, "alignment_weight, contrastive_weight and distill_weight are all 0"),
        ({"wise": (1.5,)}, r"m.wise is \(1.5,\); give a tuple of numbers between 0 and 1"),
        ({"wise": (0.5,), "loss": "finetune", "heads": {"start": "random"}}, "wise draws to zer"),
        (
            {"loss": "finetune", "distill_weight": 0.1, "heads": {}},
            "distill_weight compares with t",
        ),
        (
            {"loss": "finetune", "contrastive_denominator": "soft"},
            "has no effect with contrastive_",
        ),
        ({"loss": "finetune", "contrastive_wieght": 1.0}, "Did you mean contrastive_weight"),
        ({"loss": "finetune", "contrastive_weight": 1.0, "align": "coral"}, "leave align out"),
        ({"loss": "probe", "heads": None, "contrastive_weight": 1.0}, "compares with texts, by wh"),
        ({"loss": "clipood", "heads": None, "margin": -0.3}, "margin is -0.3; it must not be neg"),
    ],
)
def test_what_it_cannot_do_is_refused(change, words):
    entry = {key: value for key, value in (TEXT | change).items() if value is not None}
    with pytest.raises(ConfigError, match=words):
        methods_of(config_of("", "tiny", m=entry))


def test_what_no_loss_reaches_does_not_decay():
    none = {"contrastive_weight": 0.0, "distill_weight": 0.0}
    text = TEXT | {"freeze": ()}
    by_texts = text | none | {"alignment": "text"}
    made = methods_of(config_of("", "tiny", m=text | none, all=text, texts=by_texts))
    frozen = lambda name, group: is_frozen(group, made[name].phases[0].freeze)
    told = {name: frozen(name, "clip/text/block_0") for name in made}
    assert told == {"m": True, "all": False, "texts": False}
    assert all(frozen(name, "clip/logit_scale") for name in made)
    assert not any(frozen(name, "clip/vision/block_0") for name in made)


def test_a_term_of_one_phase_is_known_to_the_whole_run():
    """Its teacher is brought, and what would change its loss refused, whichever phase it is of."""
    phases = {"one": {}, "two": {"distill_weight": 0.1}}
    for order in (("one", "two"), ("two", "one")):
        entry = {"loss": "finetune", "heads": {"text": True}, "phases": phases}
        config = config_of("", "tiny", m=entry | {"phase_order": order})
        assert methods_of(config)["m"].kind.reads == ("source", "teacher")
        config.parallel = "pmap"
        with pytest.raises(ConfigError, match="compares the examples of a batch"):
            methods_of(config)


def test_a_drawn_template_leaves_the_crop_alone_that_a_teacher_sees_too():
    seen, rng = [], jax.random.key(3)
    encode = {
        "image": lambda params, x, rng: seen.append(rng) or x,
        "text": lambda params, tokens: jnp.asarray(tokens, jnp.float32),
    }
    backbone = Backbone(encode, lambda params: 1.0, None, {})
    classes = Classes(("a", "b"), np.arange(12).reshape(2, 3, 2), None, 1.0)
    source = {"inputs": jnp.eye(2), "label": jnp.arange(2)}
    compare_classes(backbone, classes, "class")({}, source, rng)
    assert seen[0] is rng


@pytest.mark.parametrize("entry", [TEXT, {"loss": "finetune", "contrastive_weight": 0.5}])
def test_parts_of_a_batch_that_would_change_the_loss_are_refused(entry):
    config = config_of("", "tiny", m=TEXT | entry)
    config.parallel = "pmap"
    with pytest.raises(ConfigError, match="compares the examples of a batch.* leave parallel at"):
        methods_of(config)
