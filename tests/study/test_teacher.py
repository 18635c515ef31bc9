"""A larger CLIP as the teacher: whose answers methods learn from, and what is refused."""

import jax
import numpy as np
import pytest
from PIL import Image

import clipjax
from clipjax.configs import anchored
from clipjax.data.images import decode
from clipjax.errors import ConfigError, DataError
from clipjax.study import run
from clipjax.study.encode import encode
from clipjax.study.examples import Examples
from clipjax.study.plan import prepare
from tests.conftest import parsed
from tests.study.test_study import config_of, row_of

DISTILL = {"loss": "distill", "heads": {}}


def with_teacher(photos, model, teacher, entry=DISTILL, **data):
    config = config_of(photos, model, taught=entry)
    config.teacher, config.seeds, config.epochs, config.save_every = str(teacher), (0,), 2, 2
    config.data.update(data)
    return parsed(config)


def test_zero_shot_answers_are_the_teachers_of_the_same_images(photos, wee_clip):
    plan = prepare(with_teacher(photos, wee_clip, "tiny", fraction=0.5))
    encoded = encode(plan, lambda line: None)
    data = plan.methods["taught"].data
    found = Examples((data,), encoded).features(("source", "target", "zero_shot"))
    images = clipjax.load("tiny")
    rows = {"source": encoded.labelled_rows(data)}
    for part, domain in (("source", "real"), ("target", "sketch")):
        source = encoded.source(domain, "train")
        own = rows.get(part, range(len(source)))
        seen = [source[int(i)].image for i in own]
        wanted = images.zero_shot(seen, plan.dataset.classes, "a photo of a {}.")
        answers = jax.nn.softmax(found[part]["zero_shot"])
        assert len(answers) == len(found[part]["inputs"]) == len(wanted)
        np.testing.assert_allclose(answers, wanted, atol=1e-4)


def test_an_image_that_one_of_both_cannot_read_is_refused(folder_dataset, wee_clip, monkeypatch):
    """The teacher's answers would be those of the images before or behind it."""
    Image.new("RGB", (1, 20)).save(folder_dataset / "sketch" / "red" / "long.png")
    plan = prepare(with_teacher(folder_dataset, wee_clip, "tiny", max_unreadable=0.5))
    small, large = plan.preprocess.size, plan.teacher.preprocess.size
    monkeypatch.setattr(decode, "MAX_PIXELS", 20 * small**2)
    assert small < large
    with pytest.raises(DataError, match="one of them cannot read 1 of sketch/.*, as .*long.png"):
        encode(plan, lambda line: None)


def test_a_model_of_images_alone_learns_classes_from_a_teacher(photos, wee_vit, tmp_path):
    entry = {"loss": "distill", "heads": {"start": "random"}, "source_weight": 0.0}
    study = with_teacher(photos, wee_vit, "tiny", entry)
    found = run(study, tmp_path / "run", pages=False)
    assert 0 <= row_of(found.results, "taught")["accuracies"][0] <= 1
    losses = [r["distill_loss"][0] for r in found.curves if "distill_loss" in r]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("entry", "teacher", "words"),
    [
        ({"loss": "finetune", "heads": {}}, "tiny", "teacher=tiny has no effect: no method learns"),
        (DISTILL, "vit", "has no text tower, and so no answers; give a CLIP"),
    ],
)
def test_teachers_that_teach_nothing_are_refused(photos, wee_clip, wee_vit, entry, teacher, words):
    teacher = wee_vit if teacher == "vit" else teacher
    with pytest.raises(ConfigError, match=words):
        prepare(with_teacher(photos, wee_clip, teacher, entry))


def test_all_anchored_methods_read_the_teacher(photos, wee_clip):
    config = config_of(photos, wee_clip, **anchored.methods())
    config.teacher = "tiny"
    plan = prepare(parsed(config))
    assert all("zero_shot" in method.kind.reads for method in plan.methods.values())
    assert plan.teacher.module.config != plan.module.config
