"""From a finished run to a directory that transformers and `load_adapted` open."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import metadata_load
from PIL import Image

import clipjax
import clipjax.study
from clipjax import load_adapted, load_clip, open_dataset
from clipjax.configs import dann
from clipjax.data.images.preprocess import Preprocess
from clipjax.errors import CheckpointError, ConfigError, DataError
from clipjax.evaluate.rows import row
from clipjax.evaluate.verdict import against_zero_shot
from clipjax.export.adapted import Adapted
from clipjax.study import export
from clipjax.study.workdir import config_text
from tests import forked
from tests.conftest import REPO, TINY, parsed, read_json


def run(module, *arguments):
    return forked.run(["-m", module, *arguments], CI="true")


def rows_of(**methods):
    """Rows of methods with (accuracies on source validation, on target test images)."""
    measures = lambda values: {"accuracy": values, "macro_accuracy": values}
    return [
        row(name, domain, split, 10, measures(values))
        for name, both in methods.items()
        for (domain, split), values in zip((("real", "val"), ("scan", "test")), both, strict=True)
    ]


def results_of(**methods):
    data = {"source": "real", "target": "scan"}
    return {"seeds": [3, 5], "rows": rows_of(**methods), "data": data}


def test_the_method_of_the_verdict_is_exported_not_the_last():
    found = results_of(
        zero_shot=([0.5], [0.5]), a=([0.6, 0.7], [0.6, 0.6]), b=([0.9] * 2, [0.1] * 2)
    )
    found["verdict"] = {"method": "a", "target": "scan", "why": "best source val"}
    taken = export.choose(found, ["a", "b"])
    assert taken == ("a", 1, "best source val", "")
    asked = export.choose(found, ["a", "b"], "b", 5)
    assert asked[:2] == ("b", 1) and asked.why.startswith("asked for; the run's rule takes a: best")
    found["verdict"]["method"] = "zero_shot"
    assert export.choose(found, ["a", "b"])[:2] == ("zero_shot", 0)


def test_a_variant_is_of_a_method_and_has_its_own_best_seed():
    found = results_of(zero_shot=([0.5], [0.5]), a=([0.6, 0.7], [0.6, 0.6]))
    half = rows_of(a=([0.8, 0.7], [0.2, 0.2]))
    found["rows"] += [each | {"variant": "wise_0.5"} for each in half]
    found["verdict"] = {"method": "a", "target": "scan", "why": "best source val"}
    taken = export.choose(found, ["a"], "a", None, "wise_0.5")
    assert (taken.position, taken.variant) == (0, "wise_0.5") and "asked for" in taken.why
    assert export.choose(found, ["a"], "a")[1:] == (1, "best source val", "")
    assert against_zero_shot(found, "a") == ""
    assert against_zero_shot(found, "a", "wise_0.5").startswith("a wise_0.5 is below zero-shot")
    for method, words in (("a", "a has no variant 'soup'; it has last, wise_0.5"), ("", "name it")):
        with pytest.raises(ConfigError, match=words):
            export.choose(found, ["a"], method, None, "soup")


def test_a_run_without_a_verdict_goes_by_the_source_and_takes_no_upper_bound():
    found = results_of(
        zero_shot=([0.5], [0.5]), a=([0.6, 0.5], [0.6, 0.6]), b=([0.9] * 2, [0.1] * 2)
    )
    found |= {"target_labels": ["b"], "verdict": {"method": None}}
    assert export.choose(found, ["a", "b"])[:2] == ("a", 0)
    assert export.choose(found, ["a", "b"], "b", 3)[:2] == ("b", 0)
    assert export.choose(found, ["b"])[:2] == ("zero_shot", 0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, photos):
    """The tiny CLIP's run on a folder of pictures, in this process; the export by its command."""
    root = tmp_path_factory.mktemp("export")
    clipjax.study.run(parsed(config_of(photos)), root / "run", print)
    options = (f"--workdir={root / 'run'}", f"--out={root / 'out'}", "--method=dann")
    done = run("experiments.export", *options)
    assert done.returncode == 0, done.stderr
    return root


def config_of(photos):
    config = dann.get_config(f"smoke,source=real,target=sketch,root={photos},model=tiny")
    config.stages, config.prompts = ("source_only", "dann", "blend"), "a photo of a {}"
    return config


@pytest.mark.slow
def test_the_exported_model_scores_what_the_run_scored(exported, photos):
    model = load_adapted(exported / "out")
    source = open_dataset("folder", str(photos)).source("sketch", "test")
    probabilities = model.predict([source[i].image for i in range(len(source))])
    assert probabilities.shape == (len(source), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    rows = read_json(exported / "run" / "results.json")["rows"]
    key = ("dann", "sketch", "test")
    (row,) = [r for r in rows if (r["method"], r["domain"], r["split"]) == key]
    hits = np.mean(probabilities.argmax(axis=1) == source.labels)
    assert hits == pytest.approx(row["accuracies"][0], abs=1e-6)
    assert model.classes == source.classes


@pytest.mark.slow
def test_transformers_opens_the_exported_clip_and_agrees(exported):
    torch = pytest.importorskip("torch", reason='pip install -e ".[parity]"')
    transformers = pytest.importorskip("transformers")
    out = exported / "out"
    model = transformers.CLIPModel.from_pretrained(out, dtype=torch.float32).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(out)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(out)
    picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    ids = tokenizer(["a bird"], padding="max_length", max_length=16, return_tensors="pt")
    theirs = model(input_ids=ids["input_ids"], pixel_values=pixels).logits_per_image.item()
    config, params = load_clip(out)
    preprocess = load_adapted(out).preprocess
    ours = clipjax.CLIP(config).apply(
        {"params": params},
        preprocess.normalize(preprocess.crop(picture))[None],
        clipjax.load_tokenizer(out)(["a bird"]),
    )
    assert float(ours[0, 0]) == pytest.approx(theirs, rel=1e-3)


def lines_of(card, heading):
    """The Python of a card behind some words, where its place and its image are here."""
    code = card.read_text().split(heading)[1].split("```python\n")[1].split("```")[0]
    return code.replace("path/to/this/directory", str(card.parent))


@pytest.fixture(scope="module")
def pictures(photos, tmp_path_factory):
    """Paths of the target's images, one of them copied to image.jpg."""
    place = tmp_path_factory.mktemp("pictures")
    found = sorted((photos / "sketch").glob("*/*.png"))
    Image.open(found[0]).save(place / "image.jpg", quality=95)
    return [str(place / "image.jpg"), *map(str, found)]


@pytest.fixture(scope="module")
def heads(exported):
    """Exports of what transformers can hold: a closed form, with ONNX files, and zero-shot."""
    for method in ("blend", "zero_shot"):
        export.export(exported / "run", exported / method, method, onnx=method == "blend")
    return exported


@pytest.mark.slow
def test_transformers_gives_the_probabilities_by_the_lines_of_the_card(heads, pictures):
    pytest.importorskip("torch", reason='pip install -e ".[parity]"')
    scope, place = {"pictures": pictures}, heads / "blend"
    lines = lines_of(place / "README.md", "## With transformers")
    assert len(lines.splitlines()) <= 15
    exec(lines.replace('Image.open("image.jpg")', "*map(Image.open, pictures)"), scope)
    wanted = load_adapted(place).predict(pictures)
    np.testing.assert_allclose(scope["probabilities"], wanted, atol=1e-4)
    assert np.ptp(wanted, axis=0).max() > 1e-2  # the images differ, by more than is tolerated


@pytest.mark.slow
def test_pipelines_of_transformers_are_right_or_fail(heads, pictures):
    pytest.importorskip("torch", reason='pip install -e ".[parity]"')
    from transformers import pipeline

    code = lines_of(heads / "zero_shot" / "README.md", "transformers' own pipeline")
    code = code.replace("image.jpg", pictures[0]).replace("print(", "found = (")
    scope = {}
    exec(code, scope)
    found = {each["label"]: each["score"] for each in scope["found"]}
    wanted = load_adapted(heads / "zero_shot").predict(pictures[:1])[0]
    np.testing.assert_allclose([found[text] for text in scope["texts"]], wanted, atol=1e-4)
    tags = {
        name: metadata_load(heads / name / "README.md") for name in ("zero_shot", "blend", "out")
    }
    tags = {name: about.get("pipeline_tag") for name, about in tags.items()}
    assert tags == {"zero_shot": "zero-shot-image-classification", "blend": None, "out": None}
    for name in tags:  # nothing makes up a classifier of random weights
        with pytest.raises(KeyError):
            pipeline("image-classification", str(heads / name))(pictures[0])


@pytest.mark.slow
def test_onnx_files_give_the_probabilities(heads, pictures):
    pytest.importorskip("onnx", reason='pip install -e ".[onnx]"')
    pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')
    model = load_adapted(heads / "blend")
    cropped = [model.preprocess.crop(open(path, "rb").read()) for path in pictures]
    pixels = model.preprocess.normalize(np.stack(cropped)).transpose(0, 3, 1, 2)
    scope = {"given": pixels}
    lines = lines_of(heads / "blend" / "README.md", "## With ONNX").splitlines()
    exec("\n".join("pixels = given" if x.startswith("pixels") else x for x in lines), scope)
    np.testing.assert_allclose(scope["probabilities"], model.predict(pictures), atol=1e-4)
    told = (heads / "blend" / "README.md").read_text()
    assert "shorter side has 64 pixels (bicubic), cropped to its middle 64 x 64" in told
    assert not list((heads / "zero_shot").glob("*.onnx")) and "## With ONNX" not in (
        (heads / "zero_shot" / "README.md").read_text()
    )


def test_the_card_tells_results_and_config(exported):
    card = (exported / "out" / "README.md").read_text()
    assert "| zero_shot |" in card and '"lam_max": 0.3' in card and "Method `dann`, seed 0" in card
    about = metadata_load(exported / "out" / "README.md")
    assert (about["license"], about["library_name"]) == ("apache-2.0", "clipjax")
    assert {"clip", "domain-adaptation", "dann"} <= set(about["tags"])
    assert "`blue`, `green`, `red`" in card and "asked for; the run's rule takes" in card
    told = "**transformers cannot hold this model.**"
    assert told in card and "zero-shot answers, **not adapted**" in card
    assert "(an adapter and hidden layers)" in card
    assert (
        "classifier.safetensors" not in card
        and not (exported / "out" / "classifier.safetensors").exists()
    )
    assert '"root": ".../photos' in card and str(exported.parent) not in card


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused_by_name(exported):
    workdir, out, new = exported / "run", exported / "out", exported / "new"
    options = (f"--workdir={workdir}", f"--out={new}", "--method=mmd")
    done = run("experiments.export", *options)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "source_only, dann, blend, zero_shot" in done.stderr and not new.exists()
    for asked, word in (
        ((workdir, out, "", None), "exists"),
        ((workdir, new, "", 7), "no seed 7"),
        ((exported, new, "", None), "no finished run"),
    ):
        with pytest.raises(ConfigError, match=word):
            export.export(*asked)
        assert not new.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, replace",
    [
        ("model.safetensors", lambda data: data[:-2] + bytes([data[-2] ^ 1, data[-1]])),
        ("preprocessor_config.json", lambda data: data.replace(b"0.26862954", b"0.3")),
        ("merges.txt", lambda data: data.replace(b"\nt h\n", b"\n", 1) + b"t h\n"),
    ],
)
def test_a_run_whose_model_was_replaced_ends_in_a_sentence(
    exported, photos, tmp_path, monkeypatch, file, replace
):
    """One bit of one weight, one number of one file: the run's heads would get other features."""
    path = shutil.copytree(TINY, tmp_path / "tiny") / file
    path.write_bytes(replace(path.read_bytes()))
    assert path.read_bytes() != (TINY / file).read_bytes()
    monkeypatch.setattr("clipjax.model.hf.hub.TINY", tmp_path / "tiny")
    with pytest.raises(CheckpointError, match=f"changed: (weights|{file})"):
        export.export(exported / "run", tmp_path / "out", "", None)
    assert not (tmp_path / "out").exists()
    config = config_of(photos)
    with pytest.raises(CheckpointError, match="is not the one that the run in"):
        clipjax.study.run(parsed(config), exported / "run")


@pytest.fixture
def gone(photos):
    """The run's images are not where they were."""
    elsewhere = photos.rename(photos.with_name("elsewhere"))
    yield
    elsewhere.rename(photos)


@pytest.mark.slow
def test_data_that_moved_after_a_run_are_not_missed(exported, gone, photos, tmp_path, capsys):
    run_dir, out = exported / "run", tmp_path / "out"
    export.export(run_dir, out, "dann")
    for name in ("heads.safetensors", "heads.json", "model.safetensors"):
        assert (out / name).read_bytes() == (exported / "out" / name).read_bytes()
    config = config_of(photos)
    clipjax.study.run(parsed(config), run_dir, print)
    said = capsys.readouterr().out
    assert "source_only" in said and "this run is finished" in said
    with pytest.raises(DataError, match=f"data.root '{photos}' does not exist"):  # a fresh run
        clipjax.study.run(parsed(config), tmp_path / "fresh")


def test_a_run_that_recorded_no_classes_is_exported_from_its_data_or_says_so(
    exported, gone, photos, tmp_path
):
    evidence = exported / "run" / "evidence.json"
    original = evidence.read_text()
    try:
        evidence.write_text(json.dumps({"classes": ["blue", "green", "red"]}))
        with pytest.raises(DataError, match=f"data.root '{photos}' does not exist"):
            export.export(exported / "run", tmp_path / "out", "", None)
        evidence.write_text("{")
        with pytest.raises(DataError, match="evidence.json is damaged"):
            export.export(exported / "run", tmp_path / "out", "", None)
    finally:
        evidence.write_text(original)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_moved_is_said_to_be_needed(wee_clip, photos, tmp_path):
    config = dann.get_config(f"smoke,source=real,target=sketch,root={photos},model={wee_clip}")
    config.model = str(tmp_path / "moved")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(config_text(parsed(config)))
    record = {"classes": ["a"], "class_names": ["a"], "programs": [["dann"]]}
    (tmp_path / "run" / "evidence.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="needs the encoder that the run began with.*moved"):
        export.prepared(export.recorded_config(tmp_path / "run")[0], tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="config.json cannot be read"):
        export.recorded_config(tmp_path / "run")


def test_a_spoilt_export_is_refused(exported):
    with pytest.raises(CheckpointError, match="plain CLIP"):
        load_adapted(REPO / "clipjax" / "assets" / "tiny_clip")
    with pytest.raises(CheckpointError, match="not a directory"):
        load_adapted("tiny")
    path = exported / "out" / "heads.json"
    original = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(original) | {"classes": ["one"]}))
        with pytest.raises(CheckpointError, match="classifier/layer_1/bias"):
            load_adapted(exported / "out")
    finally:
        path.write_text(original)


@pytest.mark.slow
def test_jax_alone_predicts_what_load_adapted_predicts(exported, tmp_path):
    """The lines of the model card, where clipjax and flax cannot be imported, on 1 and 3 images."""
    out = exported / "out"
    card = (out / "README.md").read_text().split("## With jax alone")[1]
    lines = card.split("```python\n")[1].split("```")[0].splitlines()
    model = load_adapted(out)
    size = model.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    given = f"pixels = np.load({str(tmp_path / 'pixels.npy')!r})"
    code = "\n".join(
        [
            "import sys",
            "sys.modules.update({name: None for name in ('clipjax', 'flax', 'transformers')})",
            *(given if line.startswith("pixels") else line for line in lines),
            "one = program.call(clip, heads, pixels[:1])",
            "np.save('found.npy', np.concatenate([one, probabilities]))",
        ]
    ).replace("path/to/this/directory", str(out))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found, wanted = np.load(tmp_path / "found.npy"), model.predict(list(pixels))
    np.testing.assert_allclose(found[1:], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-6)
    assert np.ptp(wanted, axis=0).max() > 1e-4  # the images differ, by more than is tolerated


def test_the_program_is_for_three_platforms_and_holds_no_weights(exported):
    from jax.export import deserialize

    data = (exported / "out" / "predict.jaxexport").read_bytes()
    assert deserialize(bytearray(data)).platforms == ("cpu", "cuda", "tpu")
    assert len(data) < 0.1 * (exported / "out" / "model.safetensors").stat().st_size


def test_predict_scales_grey_of_16_bits_however_it_is_given(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    picture = Image.fromarray(grey.astype(np.uint16) * 257)
    picture.save(tmp_path / "deep.png")
    seen = []
    adapted = Adapted(("a",), Preprocess(size=8), lambda x: seen.append(x) or np.zeros((len(x), 1)))
    path = tmp_path / "deep.png"
    adapted.predict([path, str(path), path.read_bytes(), np.asarray(picture)])
    np.testing.assert_array_equal(seen[0], np.broadcast_to(grey[..., None], (4, 8, 8, 3)))
    with pytest.raises(DataError, match="bytes-like object is required"):
        adapted.predict([picture])


def test_a_method_below_zero_shot_is_marked_in_terminal_and_card(exported, tmp_path, capsys):
    """With a target on which the method is made to be worse; asked for by name, and said."""
    shutil.copytree(exported / "run", tmp_path / "run")
    file = tmp_path / "run" / "results.json"
    results = json.loads(file.read_text())
    for each in results["rows"]:
        if each["domain"] == "sketch" and each["split"] == "test":
            each["accuracy_mean"] = 0.25 if each["method"] == "dann" else 0.5
    file.write_text(json.dumps(results))
    export.export(tmp_path / "run", tmp_path / "out", "dann")
    told = "dann is below zero-shot on the test images of sketch, 25.0 against 50.0 %"
    assert f"warning: {told}\n" in capsys.readouterr().err
    assert f"**Below zero-shot**: {told}." in (tmp_path / "out" / "README.md").read_text()
    export.export(tmp_path / "run", tmp_path / "other", "blend")
    assert "below zero-shot" not in capsys.readouterr().err


def test_bad_input_is_one_sentence_before_anything_is_written(exported, tmp_path, monkeypatch):
    ask = lambda **more: export.export(exported / "run", tmp_path / "out", "dann", **more)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="ONNX files need onnx and onnxruntime: pip install"):
            ask(onnx=True)
    shutil.copytree(exported / "run", tmp_path / "run")
    file = tmp_path / "run" / "evidence.json"
    record = json.loads(file.read_text()) | {"classes": ["red", "green", "red"]}
    file.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="^'red' names more than one class; give every class a n"):
        export.export(tmp_path / "run", tmp_path / "out", "dann")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
