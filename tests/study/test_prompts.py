"""Learned prompts in a study: one run, its resumption, its page, its export, what is refused."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

from clipjax.adapt.context import tower_bytes
from clipjax.aot.step import abstract_step
from clipjax.errors import ConfigError
from clipjax.evaluate import prompt_words as shown
from clipjax.evaluate.report import sections
from clipjax.export.adapted import load_adapted
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.tokenizer import read_words
from clipjax.study import Data, Encoder, Optim, Study, Training, words
from clipjax.study.encode import encode_texts
from clipjax.study.export import export
from clipjax.study.folded import Beyond, folded
from clipjax.study.plan import prepare
from clipjax.study.prompt_words import nearest
from clipjax.study.study import run_study
from clipjax.study.workdir import claim_workdir
from clipjax.train.preemption import Notice, Preempted
from tests.conftest import small_config

WORDS = "a photo of a"
AVERAGE = {"kind": "gauss", "every": "epoch", "mean": 2.0, "std": 1.0}
ENTRIES = {
    "coop": {"loss": "coop", "words": WORDS, "average": AVERAGE},
    "still": {"loss": "coop", "words": WORDS, "epochs": 1, "optim": {"lr": 0.0}},
    "classes": {"loss": "coop", "context": 2, "per_class": True, "epochs": 1},
    "cocoop": {"loss": "cocoop", "epochs": 1},
}


def study_of(clip, photos, entries, **training):
    training = {"seeds": (0, 1), "epochs": 3, "batch_size": 4, "save_every": 1} | training
    return Study(
        encoder=Encoder(model=str(clip), prompts="a photo of a {}."),
        data=Data(root=str(photos), source="real", target="sketch"),
        training=Training(**training, optim=Optim(name="sgd", lr=0.05)),
        methods=entries,
        stages=tuple(entries),
    )


def run_in(folder, study, programs):
    folder.mkdir(exist_ok=True)
    claim_workdir(folder, study)
    return run_study(prepare(study), folder, print, pages=False, programs=programs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, wee_clip, photos, programs):
    folder = tmp_path_factory.mktemp("prompts")
    return run_in(folder, study_of(wee_clip, photos, ENTRIES), programs), folder


@pytest.mark.slow
def test_prompts_that_do_not_move_are_zero_shot_in_every_row(finished):
    found, _ = finished
    rows = lambda name: {
        (r["domain"], r["split"]): r["accuracy_mean"] for r in found.rows if r["method"] == name
    }
    assert rows("still") == rows("zero_shot")
    assert {r["variant"] for r in found.rows if r["method"] == "coop"} == {"last", "average"}
    told = found.results["prompts"]
    assert told["still"][0]["words"] == WORDS.split() and told["still"][0]["distances"] == [0] * 4
    assert [row["class"] for row in told["classes"]] == ["blue", "green", "red"]
    table, note = sections.prompts(found.results)
    assert table.lines[1] == ["still", "a (0.00), photo (0.00), of (0.00), a (0.00)"]
    assert "seed 0" in note.text and not sections.prompts({})[0] and shown.notes({}) == []


@pytest.mark.slow
def test_a_run_stopped_in_the_middle_of_its_average_has_the_same_bits(
    finished, tmp_path, wee_clip, photos, monkeypatch, programs
):
    whole, _ = finished
    study = study_of(wee_clip, photos, {"coop": ENTRIES["coop"]})
    with monkeypatch.context() as patched, contextlib.suppress(Preempted):
        patched.setattr(Notice, "reached", lambda self, step: step >= 4)
        run_in(tmp_path, study, programs)
    again = run_study(prepare(study), tmp_path, print, pages=False, programs=programs)
    one, two = (each.trained["coop"].variants for each in (whole, again))
    assert one.keys() == {"last", "average"}
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.slow
def test_prompts_fold_into_class_embeddings_and_those_of_images_do_not(
    finished, tmp_path, wee_clip, photos
):
    found, folder = finished
    with pytest.raises(ConfigError, match="coop has no variant 'wise'; it has last, average"):
        export(folder, tmp_path / "out", "coop", 0, variant="wise")
    export(folder, tmp_path / "out", "coop", 0, variant="average")
    assert (tmp_path / "out" / "classifier.safetensors").exists()
    trained = found.trained["coop"]
    part = trained.view.encoded.parts["sketch", "test"].features
    params = jax.tree.map(lambda x: x[0], trained.variants["average"]) | trained.shared
    wanted = jax.nn.softmax(trained.answer(params, part)[0])
    assert "Method `coop average`, seed 0" in (tmp_path / "out" / "README.md").read_text()
    source = trained.view.encoded.source("sketch", "test")
    images = [source[row].image for row in range(len(source))]
    np.testing.assert_allclose(load_adapted(tmp_path / "out").predict(images), wanted, atol=1e-3)
    told = "'cocoop' answers with more.*as texts made for each image: no export holds it; export an"
    with pytest.raises(Beyond, match=told):
        export(folder, tmp_path / "images", "cocoop", 0)
    entries = {name: {"loss": name, "depth": 1, "tokens": 2} for name in ("maple", "promptsrc")}
    texts = encode_texts(prepare(study_of(wee_clip, photos, entries)))
    for name in entries:  # before anything is read
        told = f"'{name}' alters the image tower by.*learned tokens, which no export holds; export"
        with pytest.raises(Beyond, match=told):
            folded(texts, folder, name, 0)
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"loss": "coop"},
            "16 vectors of context and 'blue' are 21 tokens.*takes 12; give at most 7",
        ),
        (
            {"loss": "coop", "words": "<|endoftext|>"},
            "words='<|endoftext|>': they hold the token of a.*end",
        ),
        ({"loss": "kgcoop", "words": " "}, "words=' ' are no tokens"),
        ({"loss": "maple", "depth": 2}, "depth=2 is beyond the 1 blocks of the text tower"),
        ({"loss": "promptsrc"}, "depth=9 is beyond the 1 blocks of the text tower"),
    ],
)
def test_what_the_model_has_no_room_for_is_refused_by_name(wee_clip, photos, entry, told):
    with pytest.raises(ConfigError, match=f"methods.m: {told}"):
        prepare(study_of(wee_clip, photos, {"m": entry}))


def test_class_specific_prompts_name_no_new_classes(wee_clip, photos):
    entries = {"csc": {"loss": "coop", "context": 2, "per_class": True}}
    asked = study_of(wee_clip, photos, entries)
    told = r"methods.csc cannot answer evaluations.every, as of 'red'.*alone.*cannot name 'red'"
    data = dataclasses.replace(asked.data, classes="base")
    asked = dataclasses.replace(asked, data=data, evaluations={"every": {"classes": "all"}})
    with pytest.raises(ConfigError, match=told):
        prepare(asked)
    prepare(dataclasses.replace(asked, methods={"csc": ENTRIES["still"]}))  # one for all can


def test_steps_that_memory_does_not_hold_are_refused(wee_clip, photos, monkeypatch):
    """Texts count, and from pixels images: more of a tower that passes a gradient on."""
    entries = {
        "cached": {"loss": "cocoop"},
        "seen": {"loss": "cocoop", "augment": {}},
        "altered": {"loss": "maple", "depth": 1},
    }
    study = study_of(wee_clip, photos, entries, seeds=(0,))
    plan, texts, images = prepare(study), {}, {}
    for name, method in plan.methods.items():
        phase = method.phases[0]
        texts[name] = words.made_of(plan, method, phase).step_bytes(4)
        images[name] = words.image_bytes(plan, method, phase, 4)
    assert texts["seen"] == texts["cached"] and 0 < images["seen"] < images["altered"]
    more = dataclasses.replace(plan.clip_config.vision, num_hidden_layers=12)
    kept = [tower_bytes(more, 4, 17, remat) for remat in ("blocks", "dots", "none")]
    assert tower_bytes(more, 4, 17, learns=False) < kept[0] < kept[1] < kept[2]
    for name, entry in entries.items():
        alone = dataclasses.replace(study, methods={name: entry}, stages=(name,))
        needed = texts[name] + (name != "cached") * images[name]
        monkeypatch.setattr(words, "device_memory", lambda needed=needed: needed)
        prepare(alone)
        monkeypatch.setattr(words, "device_memory", lambda needed=needed: needed - 1)
        with pytest.raises(ConfigError, match=f"{name}: a step of 4 images and 3 .*batch_size"):
            prepare(alone)


def test_a_step_is_compiled_without_a_model_that_is_open(photos):
    made = abstract_step(study_of("none", photos, {"m": {"loss": "kgcoop"}}), small_config())
    assert made.cached and made.state.params["prompt"]["context"].shape == (4, 24)
    jax.eval_shape(made.step, made.state, made.batch, *made.shared)


def test_tokens_are_read_as_words():
    assert read_words(find_model("tiny"), [320, 1310, 964, 3041]) == [
        "a", "photo", "of", "<|startoftext|>",
    ]  # fmt: skip
    table = np.eye(3)
    ids, far = nearest(np.array([[0.9, 0.1, 0.0]]), table)
    assert ids.tolist() == [0] and np.allclose(far, 0.02**0.5)
