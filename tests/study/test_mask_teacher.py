"""A CLIP as teacher of masks: what it labels, what trains on that, what is refused."""

import jax
import numpy as np
import pytest

from clipjax.configs import maskclip
from clipjax.data.masks import MixedMasks, Relabelled
from clipjax.data.scenes import CLASSES, Scenes
from clipjax.errors import ConfigError
from clipjax.evaluate.segmentation import confusion, overlap
from clipjax.log import read_log
from clipjax.model.maps import DenseTower, place_logits, smooth_by_keys, without_absent
from clipjax.study import parse, run
from clipjax.study.mask_teacher import labels_of, told_of_labels
from clipjax.study.segmentation_plan import prepare
from tests.conftest import parsed, read_json

SMALL = {
    "experiment": "segmentation",
    "seeds": (0,),
    "data": {"train": 7, "test": 3, "targets": ("fog",)},
    "epochs": 2,
    "batch_size": 4,
    "overlays": 0,
    "maps": "live",
    "methods": {
        "teacher": {"decoder": "zero_shot"},
        "student": {
            "decoder": "aspp", "classifier": "text", "labels": "teacher", "stats": "batch"
        },
    },
}  # fmt: skip
TEACHER = {"denoise": 0.2, "smooth": True, "names": {"background": ("sky", "ground")}}


@pytest.fixture(scope="module")
def planned(wee_clip):
    """A prepared run, by the fields of its teacher."""
    made = {}

    def of(**fields):
        key = repr(fields)
        if key not in made:
            given = {"model": str(wee_clip), "teacher": TEACHER | fields}
            made[key] = prepare(parse(SMALL | given))
        return made[key]

    return of


@pytest.mark.slow
def test_a_student_trains_on_the_teachers_labels_and_says_so(planned, wee_clip, tmp_path):
    given = {"model": str(wee_clip), "teacher": TEACHER | {"self_training": 0.5}}
    run(parse(SMALL | given), tmp_path)
    found = read_json(tmp_path / "segmentation.json")
    told = f"student: trained on labels that {wee_clip} gave the training images by texts alone, "
    told += "on no true mask; after 50 % of the steps on its own answers there; masks of tests"
    assert found["labels"].startswith(told)
    assert all(told in (tmp_path / f"segmentation.{end}").read_text() for end in ("md", "html"))
    losses = [r["loss"] for r in read_log(tmp_path / "metrics.jsonl") if r["phase"] == "student"]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert found["methods"]["student"]["miou"]["fog"][0] > 0
    plan = planned()
    for domain, source in plan.data.tests.items():
        matrix = sum(confusion(mask, seen, 6) for mask, seen in plan.teacher.answers(source))
        of = found["methods"]["teacher"]
        assert of["miou"][domain] == pytest.approx([overlap(matrix).miou])


def test_its_answers_are_maskclips(planned):
    plan = planned()
    teacher, reader, source = plan.teacher, plan.reader, plan.data.train
    mean = reader.weights(("sky", "ground")).mean(axis=0)
    np.testing.assert_allclose(teacher.texts[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(teacher.texts[1:], reader.texts[1:], atol=1e-6)
    images = np.stack([source[i].image for i in range(len(source))])
    pixels = reader.preprocess.normalize(images)
    tower = jax.jit(DenseTower(reader.clip.vision).apply, static_argnames=("last",))
    _, end, keys = tower({"params": reader.params["vision"]}, pixels, last="value")
    embedded = end @ reader.params["visual_projection"]["kernel"]
    logits = place_logits(embedded, teacher.texts, reader.scale)
    logits = smooth_by_keys(without_absent(logits, 0.2), keys)
    large = jax.image.resize(logits, (7, 96, 96, 6), "linear")
    seen = np.stack([answer for _, answer in teacher.answers(source)])
    assert (seen == large.argmax(-1)).mean() > 0.999 and len(np.unique(seen)) > 1


def test_labels_read_no_mask_but_those_of_classes_that_have_some(planned):
    plan = planned()
    source = plan.data.train
    blank = Relabelled(source, [np.zeros((96, 96), np.uint8)] * len(source))
    labels = labels_of(plan.teacher, source)
    for other, own in zip(labels_of(plan.teacher, blank), labels, strict=True):
        assert np.array_equal(other, own)
    unseen = [CLASSES.index(name) for name in ("person", "thing")]
    some = planned(unseen=("person", "thing"))
    changed = 0
    for i, label in enumerate(labels_of(some.teacher, source)):
        mask = source[i].mask
        hidden = np.isin(mask, unseen)
        assert np.array_equal(label[~hidden], mask[~hidden])
        assert set(np.unique(label[hidden])) <= set(unseen)
        changed += np.count_nonzero(label != mask)
    assert changed
    assert " at pixels of person, thing, and on masks" in told_of_labels(some.teacher, some.config)
    assert repr(blank) != repr(Relabelled(source, labels))


def test_images_of_any_size_are_answered_in_order(planned):
    class Odd(Scenes):
        def __getitem__(self, number):
            example = super().__getitem__(number)
            size = 90 if number == 1 else 96
            return example._replace(image=example.image[:size])

    whole, odd = (kind("train", 3) for kind in (Scenes, Odd))
    teacher = planned().teacher
    found = [list(teacher.answers(MixedMasks([source]))) for source in (whole, odd)]
    for i, (one, other) in enumerate(zip(*found, strict=True)):
        assert np.array_equal(one[0], other[0]) and other[1].shape == (96, 96)
        assert np.array_equal(one[1], other[1]) == (i != 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"m": {}}, "teacher": {"smooth": True}}, "teacher.smooth=True has no effect"),
        (
            {"methods": {"m": {"decoder": "zero_shot"}}, "teacher": {"unseen": ("thing",)}},
            "teacher.unseen=.* has no effect without a method of labels=teacher.",
        ),
        (
            {"methods": {"m": {"decoder": "zero_shot"}}, "teacher": {"self_training": 0.1}},
            "teacher.self_training=0.1 has no effect without a method of labels=teacher",
        ),
        ({"teacher": {"smooth": True, "last": "state"}}, "smooth=True needs last=value"),
        ({"teacher": {"names": {"person": ""}}}, "teacher.names.person is no text"),
        ({"teacher": {"names": {"person": ()}}}, "names.person is no text, and no tuple of texts"),
        ({"methods": {"m": {"classifier": "text"}}}, "classifier=text needs decoder=aspp"),
        (
            {"methods": {"m": {"decoder": "zero_shot", "labels": "teacher"}}},
            "labels=teacher has no effect on decoder=zero_shot, of which nothing trains",
        ),
        (
            {"mixing": {"shares": (0.5,), "method": "student"}},
            "mixing trains student on masks, and it has labels=teacher",
        ),
        ({"mixing": {"shares": (0.5,)}}, "mixing trains teacher, which has decoder=zero_shot"),
    ],
)
def test_what_has_no_effect_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        parse(SMALL | changes)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"unseen": ("persn",)}, "teacher.unseen has 'persn', which is no class; .*mean person"),
        ({"names": {"sky": "the sky"}}, "teacher.names has 'sky', which is no class; known: back"),
        ({"unseen": ("person", "person")}, "teacher.unseen names a class twice"),
    ],
)
def test_classes_that_are_not_there_are_refused_before_a_model_is_read(teacher, words):
    with pytest.raises(ConfigError, match=words):
        prepare(parse(SMALL | {"model": "none", "teacher": teacher}))


def test_a_teacher_without_texts_is_refused(wee_vit, wee_clip):
    given = {"model": str(wee_clip), "teacher": {"model": str(wee_vit)}}
    with pytest.raises(ConfigError, match="teacher.model=.* has one tower; its answers"):
        prepare(parse(SMALL | given))


def test_its_config_has_the_teacher_and_students_with_and_without_masks():
    made = parsed(maskclip.get_config("smoke"))
    rows = {m.name: (m.decoder, m.classifier, m.labels) for m in made.decoders}
    assert rows["teacher"] == ("zero_shot", "learned", "masks")
    assert rows["student"] == ("aspp", "text", "teacher")
    assert rows["on_masks"] == ("aspp", "text", "masks")
    assert {m.stats for m in made.decoders} == {"layer", "batch"} and made.teacher.names
