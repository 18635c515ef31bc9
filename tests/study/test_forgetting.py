"""Zero-shot on another dataset before and after training, and penalties that hold an encoder."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clipjax.data.features.cache import Features
from clipjax.data.images.preprocess import load_preprocess
from clipjax.errors import ConfigError
from clipjax.evaluate import forgetting
from clipjax.evaluate.results import markdown
from clipjax.evaluate.terminal import show
from clipjax.log import read_log
from clipjax.model.clip import CLIP, normalize
from clipjax.model.hf.load import load_clip
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.model.text import zero_shot_classifier
from clipjax.study import parse, run
from clipjax.study.forgetting import _measured as measured
from clipjax.study.plan import prepare

SGD = {"name": "sgd", "lr": 0.2, "schedule": "constant"}
METHODS = {
    "text": {"loss": "finetune", "heads": {"text": True}, "freeze": (), "optim": SGD},
    "linear": {"loss": "finetune", "heads": {}, "freeze": (), "optim": SGD, "wise": (0.5,)},
    "frozen": {"loss": "finetune", "heads": {}},
}
NAMES = ("circle", "square", "star")
METHODS["held"] = METHODS["text"] | {"preserve": {"embedding": 5.0, "similarity": 5.0}}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Another dataset of plain colours, with a domain of the same name as one of `photos`."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(1)
    for split, size in (("train", 1), ("test", 20)):
        for name in NAMES:
            folder = root / "real" / split / name
            folder.mkdir(parents=True)
            for i in range(size):
                colour = tuple(rng.integers(0, 255, 3).tolist())
                Image.new("RGB", (36, 36), colour).save(folder / f"{i}.png")
    return root


def config(photos, model, shapes, **changes):
    own = {"root": str(photos), "name": "folder", "source": "real", "target": "sketch"}
    found = {
        "model": str(model),
        "data": own,
        "forgetting": {"root": str(shapes), "name": "folder"},
        "methods": METHODS,
        "stages": tuple(METHODS),
        "seeds": (0,),
        "epochs": 2,
        "batch_size": 4,
        "save_every": 1,
    }
    return found | changes


@pytest.fixture(scope="module")
def found(photos, wee_clip, shapes, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("forgetting") / "run"
    return run(parse(config(photos, wee_clip, shapes)), workdir, print)


def by_hand(model, shapes, image_tower=None, text_tower=None):
    """Zero-shot accuracy on `shapes` of the model, with the given towers in place of its own."""
    sizes, params = load_clip(model, dtype=jnp.float32)
    of = lambda tower: CLIP(sizes).bind({"params": params | dict(tower or {})})
    encode_text = lambda ids: of(text_tower).encode_text(ids)
    weights = zero_shot_classifier(encode_text, load_tokenizer(model), NAMES)
    preprocess = load_preprocess(model)
    paths = sorted((shapes / "real" / "test").rglob("*.png"))
    pixels = np.stack([preprocess.crop(path.read_bytes()) for path in paths])
    seen = normalize(of(image_tower).encode_image(preprocess.normalize(pixels)))
    found = np.argmax(seen @ weights.T, axis=1)
    return np.mean([NAMES[k] == path.parent.name for k, path in zip(found, paths, strict=True)])


def test_rows_are_zero_shot_of_the_towers_as_trained(found, wee_clip, shapes):
    told = found.results["forgetting"]
    assert (told["data"], told["classes"]) == (shapes.name, 3)
    assert told["unchanged"] == ["frozen"]
    rows = {(row["method"], row["variant"]): row for row in told["rows"]}
    assert {row["n"] for row in told["rows"]} == {60}
    before = by_hand(wee_clip, shapes)
    assert rows["zero_shot", "last"]["accuracies"] == [pytest.approx(before, abs=1e-5)]
    first = lambda tree: jax.tree.map(lambda x: jnp.asarray(x[0]), tree)
    want = {("frozen", "last"): before}
    for name in ("text", "held"):
        tower = first(found.params[name]["clip"])
        want[name, "last"] = by_hand(wee_clip, shapes, tower, tower)
    # A head that names its own classes: images as trained, texts as they came.
    for variant, params in found.trained["linear"].variants.items():
        want["linear", variant] = by_hand(wee_clip, shapes, first(params["clip"]))
    assert want["text", "last"] != before != want["linear", "last"]  # there is something to see
    assert rows.keys() - {("zero_shot", "last")} == want.keys() and len(want) == 5
    for key, value in want.items():
        assert rows[key]["accuracies"] == [pytest.approx(value, abs=1e-5)], key
        assert rows[key]["change"] == [pytest.approx(value - before, abs=1e-5)], key


def test_the_table_is_in_all_that_is_written(found):
    header, lines = forgetting.cells(found.results)
    assert header[1:] == ["real", "change"]
    names = ["before training", "text", "linear", "linear wise_0.5", "frozen", "held"]
    assert [line[0] for line in lines] == names
    assert dict((line[0], line[-1]) for line in lines)["frozen"] == "none: as before"
    page = (found.workdir / "report.html").read_text()
    kept = json.loads((found.workdir / "results.json").read_text())
    assert kept["forgetting"] == found.results["forgetting"]
    for text in (markdown(found.results), show(found.results), page):
        assert "before training" in text and "none: as before" in text
        assert "60 test images a domain" in " ".join(text.split())
    without = {key: value for key, value in found.results.items() if key != "forgetting"}
    assert "before training" not in markdown(without) + show(without)


def test_penalties_hold_the_towers(found, wee_clip):
    """They grow as towers move, and leave these nearer to where they began."""
    log = [r for r in read_log(found.workdir / "metrics.jsonl") if r.get("phase") == "held"]
    moved = [r["embedding_moved"] for r in log if "embedding_moved" in r]
    assert moved and all(0 < np.mean(value) < 0.5 for value in moved)
    assert all("similarity_moved" in r for r in log if "embedding_moved" in r)
    start = load_clip(wee_clip, dtype=jnp.float32)[1]

    def distance(name):
        clip = jax.tree.map(lambda x: x[0], found.params[name]["clip"])
        away = jax.tree.map(lambda a, b: float(((a - b) ** 2).sum()), clip, dict(start))
        return sum(jax.tree.leaves(away)) ** 0.5

    assert 0 < distance("held") < 0.9 * distance("text")


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"stages": ()}, "forgetting compares before training with after, and stages names no"),
        ({"forgetting": {"domains": ("real",)}}, "forgetting.domains are of another dataset"),
        ({"forgetting": {"name": "pascal"}}, "forgetting: unknown data.name 'pascal'"),
        ({"forgetting": {"name": "folder"}}, "forgetting: data.name='folder' needs"),
    ],
)
def test_what_cannot_be_compared_is_refused(photos, wee_clip, shapes, changes, told):
    with pytest.raises(ConfigError, match=told):
        prepare(parse(config(photos, wee_clip, shapes, **changes)))


def test_data_that_cannot_be_compared_are_refused(photos, wee_clip, shapes, tmp_path):
    refused = functools.partial(config, photos, wee_clip, shapes)
    own = {"name": "folder", "root": str(photos)}
    with pytest.raises(ConfigError, match="forgetting names the data that the run trains on"):
        prepare(parse(refused(forgetting=own)))
    asked = {"name": "folder", "root": str(shapes), "domains": ("moon",)}
    with pytest.raises(ConfigError, match="forgetting: .*has no domain 'moon'; domains: real"):
        prepare(parse(refused(forgetting=asked)))
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for folder in ("one/real/circle", "bare/real", "bare/drawn/a", "bare/drawn/b"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(10):
            image.save(tmp_path / folder / f"{i}.png")
    for place, domains, told in (
        ("one", (), "forgetting: one has 1 class"),
        ("bare", ("real",), "forgetting: no test image of 'real' has a label"),
    ):
        asked = {"name": "folder", "root": str(tmp_path / place), "domains": domains}
        with pytest.raises(ConfigError, match=told):
            prepare(parse(refused(forgetting=asked)))


@pytest.mark.parametrize(
    "entry, told",
    [
        ({"loss": "finetune", "heads": {}, "preserve": {"embedding": 1.0}}, "nothing of clip/vis"),
        ({"loss": "probe", "preserve": {"embedding": 1.0}}, "trains no encoder"),
        ({"preserve": {}}, "preserve.embedding and similarity are both 0"),
        ({"preserve": {"embedding": 1.0, "of": "across"}}, "preserve.of and kind are of the simi"),
        ({"preserve": {"embedding": -1.0}}, "preserve.embedding"),
        ({"preserve": {"similarity": 1.0, "kind": "cosine"}}, "preserve.kind"),
        ({"preserve": 1.0}, "preserve is 1.0; give a dict"),
    ],
)
def test_penalties_without_effect_or_meaning_are_refused(photos, wee_clip, shapes, entry, told):
    entry = entry if "loss" in entry else METHODS["text"] | entry
    with pytest.raises(ConfigError, match=told):
        prepare(parse(config(photos, wee_clip, shapes, methods={"x": entry}, stages=("x",))))


def test_microbatches_are_refused_where_examples_are_compared(photos, wee_clip, shapes):
    def prepared(**preserve):
        methods = {"x": METHODS["text"] | {"preserve": preserve}}
        more = {"methods": methods, "stages": ("x",), "accumulate": 2}
        return prepare(parse(config(photos, wee_clip, shapes, **more)))

    with pytest.raises(ConfigError, match="compares the examples of a batch"):
        prepared(similarity=1.0)
    assert prepared(embedding=1.0, similarity=1.0, of="across")


def test_after_training_answers_are_of_the_classes_that_before_are_of():
    """Among a domain's own: every image looks most like a class its domain lacks."""
    looks, labels = np.eye(3, dtype="f")[[0, 0]] + 0.5 * np.eye(3, dtype="f")[[1, 2]], [1, 2]
    own = {"classes_of": lambda domain: ("b", "c"), "unlabelled": lambda domain: False}
    dataset = types.SimpleNamespace(classes=("a", "b", "c"), **own)
    parts = {("x", "test"): Features(looks, np.array(labels, np.int32))}
    view = types.SimpleNamespace(placed=lambda p: p, features=lambda p, part: parts[part])
    view.over = lambda other: view
    for among, accuracy in (("present", 1.0), ("all", 0.0)):
        study = types.SimpleNamespace(
            data=types.SimpleNamespace(score_among=among),
            training=types.SimpleNamespace(seeds=(0,)),
        )
        plan = types.SimpleNamespace(dataset=dataset)
        other = types.SimpleNamespace(parts=parts, plan=plan, study=study)
        trained = types.SimpleNamespace(view=view, shared={})
        start = {"w": np.zeros((1, 1), "f")}
        (row,) = measured("m", "last", trained, start, lambda p, x: x, other)
        assert row["accuracy_mean"] == accuracy
