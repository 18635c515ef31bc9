"""The ten lines of the README, and what else a fitted `Adapter` and a loaded CLIP promise."""

import contextlib
import io
import re
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone

import clipjax
from clipjax.api.data import open_pair
from clipjax.errors import ConfigError, DataError
from tests.conftest import REPO

PAGES = ("README.md", "docs/python.md")  # the same block in both


def ten_lines(page):
    """The block of a page that fits an `Adapter`, and the block of what it printed."""
    text = (REPO / page).read_text()
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.S)
    place = next(i for i, (kind, code) in enumerate(blocks) if "clipjax.Adapter(" in code)
    assert blocks[place][0] == "python" and blocks[place + 1][0] == ""
    return blocks[place][1], blocks[place + 1][1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What the names of the ten lines stand for after them, what they printed, and where."""
    code, wanted = ten_lines(PAGES[0])
    folder, found, said = tmp_path_factory.mktemp("ten"), {}, io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        started = time.process_time()
        exec(compile(code, "ten lines", "exec"), found)
        found["seconds"] = time.process_time() - started
    return found | {"said": said.getvalue(), "wanted": wanted, "folder": folder}


@pytest.fixture(scope="module")
def clip():
    return clipjax.load("tiny")


@pytest.mark.slow
def test_ten_lines_from_import_to_predictions_on_new_files(finished):
    code, _ = ten_lines(PAGES[0])
    assert len(code.splitlines()) <= 10
    numbers = lambda text: [float(x) for x in re.findall(r"\d\.\d*", text)]
    names = lambda text: re.findall(r"'(.*?)'", text)
    told = finished["said"]
    zero_shot, adapted = numbers(told)[:2]
    assert adapted > zero_shot + 0.02
    # Another processor rounds its sums differently: a test image of 260 or two.
    np.testing.assert_allclose(numbers(told), numbers(finished["wanted"]), atol=0.02)
    assert names(told) == names(finished["wanted"])
    assert finished["seconds"] < 60  # of two cores: 30 on a clock


@pytest.mark.slow
def test_what_is_saved_predicts_the_same(finished):
    model, new = finished["model"], finished["new"]
    saved = clipjax.load_adapted(finished["folder"] / "adapted")
    np.testing.assert_allclose(saved.predict(new), model.predict_proba(new), atol=1e-6)
    assert saved.classes == tuple(model.classes_)
    assert (finished["folder"] / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_images_may_be_paths_files_pictures_or_arrays(finished, tmp_path):
    model, new = finished["model"], finished["new"]
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in new]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(len(new))]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    want = model.predict_proba(paths)
    for images in (pictures, arrays, tmp_path, str(tmp_path / "*.png"), [paths[0], *pictures[1:]]):
        np.testing.assert_array_equal(model.predict_proba(images), want)
    assert model.predict(paths).tolist() == model.classes_[want.argmax(axis=1)].tolist()
    assert model.predict_proba([]).shape == (0, 28)


@pytest.mark.slow
def test_scores_are_those_of_the_run(finished):
    model, data = finished["model"], finished["data"]
    test = data.source("stencil", "test")
    images = [test[i].image for i in range(len(test))]
    names = [data.classes[label] for label in test.labels]
    assert model.score(images, names) == pytest.approx(model.score(), abs=1e-5)
    rows = {(row["method"], row["domain"], row["split"]): row for row in model.results_.rows}
    assert model.score(domain="render") == rows["blend", "render", "test"]["accuracies"][0]
    with pytest.raises(DataError, match="measured nothing on 'flat'; it measured render, stencil"):
        model.score(domain="flat")
    with pytest.raises(DataError, match="score needs labels; give y"):
        model.score(images)
    for first in (-1, None, len(model.classes_), "Landscape"):
        wrong = [first, *names[1:]]
        with pytest.raises(DataError, match="neither a class name nor its number"):
            model.score(images, wrong)
    with pytest.raises(DataError, match="images and 1 labels; give one for each"):
        model.score(images, names[:1])


def test_estimators_are_scikit_learns(finished):
    model = finished["model"]
    again = clone(model).set_params(method="logistic", strength=0.1)
    assert again.get_params()["strength"] == 0.1 and again.model is model.model
    assert "method='logistic'" in repr(again) and "Pretrained('tiny', 64 px" in repr(again)
    with pytest.raises(ConfigError, match="not fitted; call fit first"):
        again.predict([])


@pytest.mark.slow
def test_a_list_of_unlabelled_images_is_a_target(finished):
    """Adapting to bare images of the target's style wins something too."""
    data, clip = finished["data"], finished["clip"]
    train, test = data.source("stencil", "train"), data.source("stencil", "test")
    bare = [train[i].image for i in range(len(train))]
    model = clipjax.Adapter("blend", clip).fit(data, source="render", target=bare)
    images = [test[i].image for i in range(len(test))]
    named = [data.classes[k] for k in test.labels]
    assert model.score(images, named) > finished["model"].zero_shot_score()
    with pytest.raises(DataError, match="test images of 'target' have no labels; give X and y"):
        model.score()


@pytest.mark.slow
def test_masked_labels_and_domains_are_skadas(finished):
    """Source images above 0, target below; what y says of the target is never trained on."""
    data, clip = finished["data"], finished["clip"]
    classes, parts = data.classes[:3], [data.source(d, "train") for d in ("render", "stencil")]
    rows = [np.flatnonzero(part.labels < len(classes)) for part in parts]
    X = [part[i].image for part, own in zip(parts, rows, strict=True) for i in own]
    y = np.concatenate([part.labels[own] for part, own in zip(parts, rows, strict=True)])
    where = np.repeat([2, -1], list(map(len, rows)))
    masked = np.where(where > 0, y, -1)
    fit = lambda y, **more: clipjax.Adapter("logistic", clip).fit(X, y, classes=classes, **more)
    given, bare = fit(masked, sample_domain=where), fit(masked)
    new = finished["new"]
    np.testing.assert_array_equal(given.predict_proba(new), bare.predict_proba(new))
    assert given.study_.data.source == "source" and given.study_.data.target == "target"


def test_names_in_y_are_one_class_whatever_their_unicode_form_or_blanks():
    """As folders have it: a class that is there twice would take the other's answers for wrong."""
    names = ["caf\u00e9", "cafe\u0301", " th\u00e9", "th\u00e9", np.nan]
    images = np.zeros((len(names), 8, 8, 3), np.uint8)
    pair = open_pair(images, names, None, None, None, None)
    assert pair.dataset.classes == ("caf\u00e9", "th\u00e9") and pair.target == "target"
    parts = [pair.dataset.source("source", split) for split in ("train", "val", "test")]
    rows, labels = (np.concatenate([getattr(p, k) for p in parts]) for k in ("rows", "labels"))
    assert dict(zip(rows.tolist(), labels.tolist(), strict=True)) == {0: 0, 1: 0, 2: 1, 3: 1}


@pytest.mark.parametrize(
    "X, y, more, says",
    [
        ("data", None, {}, "name the labelled domain, source=...: .*render"),
        ("data", None, {"source": "rendr"}, "no domain 'rendr'"),
        (
            "data",
            None,
            {"source": "render", "target": "stencl"},
            "no domain .*no folder and no pat",
        ),
        ("data", None, {"source": "render", "target": "/nowhere/*.png"}, "no folder or pattern of"),
        ("data", [0], {"source": "render"}, "y is for images; of a dataset name source and target"),
        ("images", None, {}, "2 images but 0 labels; give y"),
        ("images", ["a"], {}, "2 images but 1 labels"),
        ("images", [0, 1], {}, "y holds numbers; give classes"),
        ("images", [0, 2], {"classes": ["a", "b"]}, "y holds 2, and classes has 2 names from 0 on"),
        ("images", ["a", "c"], {"classes": ["a", "b"]}, "not in classes: c"),
        ("images", [None, None], {}, "no image has a label"),
        ("images", [0, 1.5], {"classes": ["a", "b"]}, "y holds 1.5 among numbers of classes"),
        ("images", [0, "a"], {"classes": ["a", "b"]}, "y holds 'a' among numbers of classes"),
        ("images", [0, 1], {"classes": ["a", "a "]}, "classes 0 and 1 the same name 'a'"),
        ("images", ["a", "b"], {"sample_domain": [1, 0]}, "has a 0; give numbers above 0"),
        ("images", ["a", None], {"sample_domain": [1, 1]}, "1 source images have no label"),
        ("images", ["a", "b"], {"sample_domain": [-1, -1]}, "no image is of the source"),
        ("images", ["a", "b"], {"source": "a"}, "source names a domain of a dataset"),
    ],
)
def test_what_cannot_be_fitted_is_said_before_a_model_is_opened(X, y, more, says):
    given = {"data": clipjax.open_dataset(), "images": list(np.zeros((2, 8, 8, 3), np.uint8))}[X]
    with pytest.raises((ConfigError, DataError), match=says):
        clipjax.Adapter("blend", "no such model").fit(given, y, **more)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"method": "blnd"}, "no method 'blnd'.*Did you mean blend"),
        ({"wieght": 3}, "no option wieght.*Did you mean weight"),
        ({"seeds": (0, 0)}, "seeds is .0, 0."),
        ({"method": {"loss": "nowhere.at_all"}}, "'nowhere.at_all' cannot be imported"),
    ],
)
def test_settings_that_are_wrong_are_refused(settings, says, clip):
    with pytest.raises(ConfigError, match=says):
        settings = {"method": "blend", **settings}
        clipjax.Adapter(model=clip, **settings).fit(
            clipjax.open_dataset(), source="render", target="stencil"
        )


def test_data_of_ones_own_need_a_model_and_have_prompts_of_their_own(photos, clip, tmp_path):
    (tmp_path / "emoji").symlink_to(photos)  # called as the embedded data by chance
    for own in (photos, tmp_path / "emoji"):
        with pytest.raises(ConfigError, match="no model named: the embedded one knows 64 px draw"):
            clipjax.Adapter("blend").fit(own, source="real", target="sketch")
    with pytest.warns(UserWarning) as said:
        model = clipjax.Adapter("logistic", clip).fit(photos, source="real", target="sketch")
    told = " ".join(str(each.message) for each in said)
    assert "its numbers mean nothing" in told and "a photo of a {}." in told
    assert model.classes_.tolist() == ["blue", "green", "red"]
    assert model.study_.encoder.prompts == "simple"


@pytest.mark.slow
def test_a_finished_fit_is_not_taken_for_one_of_other_images(tmp_path, clip):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (24, 64, 64, 3), dtype=np.uint8))
    model, names = clipjax.Adapter("finetune", clip, workdir=tmp_path, epochs=1), ["a", "b"] * 12
    first = model.fit(images, names).predict_proba(images)
    assert np.array_equal(model.fit(images, names).predict_proba(images), first)  # read back
    others = list(rng.integers(0, 255, (24, 64, 64, 3), dtype=np.uint8))
    for X, y in ((others, names), (images, names[::-1]), (images, ["c", "d"] * 12)):
        with pytest.raises((ConfigError, DataError), match="began with; "):
            model.fit(X, y)


def test_settings_go_to_the_study_or_to_the_method(clip):
    model = clipjax.Adapter("dann", clip, epochs=3, lam_max=0.5, optim={"lr": 0.1}, seeds=(4,))
    study = model._study(open_pair(clipjax.open_dataset(), None, "render", "flat", None, None))
    (method,) = study.trained
    assert (method.epochs, method.phases[0].options["lam_max"]) == (3, 0.5)
    assert method.phases[0].optim.lr == 0.1 and study.training.seeds == (4,)
    assert study.data.domains == ("render", "flat")


def test_embeddings_and_zero_shot_answers(clip, tmp_path):
    data = clipjax.open_dataset()
    part = data.source("flat", "val")
    images = [part[i].image for i in range(3)]
    found = clip.encode_images(images)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found, clip.encode_images(images, cache=False))
    texts = clip.encode_texts(["a cat", "a picture of the moon"])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)
    shares = clip.zero_shot(images, data.classes)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert (shares.argmax(axis=1) == part.labels[:3]).mean() > 0.5
    (tmp_path / "broken.png").write_bytes(b"no image")
    for wrong, says in (
        (["nowhere.png"], "nowhere.png does not exist"),
        ([tmp_path], "is a folder; give the path of an image"),
        ([images[0], tmp_path / "broken.png"], "broken.png cannot be read as an image"),
        (images[0], "a single image is given"),
        (str(tmp_path / "broken.png"), "is one image; write"),
        ([3], "image 0 is of type int"),
        (str(tmp_path / "*.jpg"), "no folder or pattern of image files"),
    ):
        with pytest.raises(DataError, match=says):
            clip.encode_images(wrong)
    with pytest.raises(ConfigError, match="no field promts.*Did you mean prompts"):
        clipjax.load("tiny", promts="simple")


def test_a_picture_that_pil_opened_is_as_its_file(tmp_path, clip):
    """Upright, as of a camera that was turned; a name of the file in its error."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(
            clip.encode_images([opened]), clip.encode_images([tmp_path / "turned.png"])
        )


def test_a_dataset_shows_its_domains_classes_and_counts(photos):
    lines = repr(clipjax.open_dataset(root=str(photos))).splitlines()
    assert lines[0] == f"{photos.name}: 36 images, 2 domains, 3 classes"
    assert lines[1].split() == ["domain", "train", "val", "test"]
    name, *counts = lines[2].split()
    assert name == "real" and sum(map(int, counts)) == 18
    assert lines[-1] == "classes: blue, green, red"
