"""Images without masks: trained on by a teacher's labels, answered, and never measured."""

import shutil

import numpy as np
import pytest
from PIL import Image

from clipjax.configs import maskclip_images
from clipjax.data.masks import NoMask
from clipjax.data.open_masks import open_masks, recognise_masks
from clipjax.errors import ConfigError, DataError
from clipjax.evaluate.segmentation import confusion, overlap
from clipjax.study import parse, run
from clipjax.study.mask_teacher import labels_of
from clipjax.study.segmentation_data import open_data
from clipjax.study.segmentation_plan import prepare
from tests.conftest import parsed, read_json
from tests.data import mask_sets

STUDENT = {"decoder": "aspp", "classifier": "text", "labels": "teacher"}
SMALL = {
    "experiment": "segmentation",
    "seeds": (0, 1),
    "epochs": 1,
    "batch_size": 4,
    "width": 8,
    "overlays": 1,
    "methods": {"teacher": {"decoder": "zero_shot"}, "student": STUDENT},
}


@pytest.fixture
def root(tmp_path):
    """Of clear, tests have masks; of fog, nothing has."""
    root = mask_sets.folders(tmp_path / "data", counts={"train": 6, "test": 3})
    shutil.rmtree(root / "clear/masks/train")
    shutil.rmtree(root / "fog/masks")
    return root


def config(root, **changes):
    data = {"root": str(root), "source": "clear"} | changes.pop("data", {})
    return parse(SMALL | changes | {"data": data})


def answers(workdir, method, domain):
    """Written answers by name, and the classes of their values."""
    folder = workdir / "answers" / method / domain
    found = {path.name: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}
    return found, (workdir / "answers/classes.txt").read_text().split()


@pytest.mark.slow
def test_a_student_trains_on_images_alone_and_what_has_no_masks_is_answered(
    root, wee_clip, tmp_path
):
    out, said = tmp_path / "run", []
    made = config(root, model=str(wee_clip))
    run(made, out, said.append)
    found, plan = read_json(out / "segmentation.json"), prepare(made)
    assert found["conditions"] == ["clear", "fog"] and found["not_measured"] == {"fog": "no masks"}
    teacher, student = (found["methods"][name] for name in ("teacher", "student"))
    seen = plan.teacher.answers(plan.data.tests["clear"])
    matrix = sum(confusion(mask, answer, 3) for mask, answer in seen)
    assert teacher["miou"] == {"clear": [pytest.approx(overlap(matrix).miou)] * 2}
    for key in ("miou", "iou", "foreground", "accuracy", "miou_percent"):
        assert "fog" not in teacher[key] and "fog" not in student[key]
    # The most frequent class is one of tested masks, as no other was read.
    masks = np.stack([plan.data.tests["clear"][i].mask for i in range(3)])
    shares = np.bincount(masks.ravel(), minlength=3) / masks.size
    assert (found["majority"], found["majority_of"]) == ("ground", "clear")
    assert found["constant"] == {"clear": pytest.approx(shares[0] / 3)}
    for name in ("segmentation.md", "segmentation.html"):
        assert "not measured" in (out / name).read_text()
    assert any("teacher: mIoU clear" in x and x.endswith("fog not measured") for x in said)
    written, classes = answers(out, "teacher", "fog")
    assert classes == list(mask_sets.NAMES)
    for (_, seen), (name, answer) in zip(
        plan.teacher.answers(plan.data.tests["fog"]), written.items(), strict=True
    ):
        assert name.endswith(".png") and np.array_equal(answer, seen)
    assert set(answers(out, "student", "fog")[0]) == {"0.png", "1.png", "2.png"}
    assert not (out / "answers/teacher/clear").exists()


@pytest.mark.slow
def test_where_nothing_has_masks_nothing_is_measured_and_answers_have_their_images_size(
    root, wee_clip, tmp_path
):
    shutil.rmtree(root / "clear/masks")
    out, zero_shot = tmp_path / "run", {"teacher": {"decoder": "zero_shot"}}
    data = {"resize": (16, 16), "targets": ("fog",)}
    run(config(root, data=data, methods=zero_shot, model=str(wee_clip)), out)
    found = read_json(out / "segmentation.json")
    assert found["not_measured"] == dict.fromkeys(("clear", "fog"), "no masks")
    assert (found["majority"], found["constant"]) == (None, {})
    assert found["methods"]["teacher"]["miou"] == {}
    assert "| teacher | not measured | not measured |" in (out / "segmentation.md").read_text()
    assert "masks of tests" not in found["labels"]
    for domain in ("clear", "fog"):
        assert {x.shape for x in answers(out, "teacher", domain)[0].values()} == {(16, 24)}


def test_masks_of_training_images_are_not_read_and_images_without_one_train(root, wee_clip):
    bare = prepare(config(root, model=str(wee_clip)))
    assert not bare.data.train.masked and isinstance(bare.data.train[0].mask, NoMask)
    assert any("no mask of a training image is read" in note for note in bare.data.notes)
    labels = labels_of(bare.teacher, bare.data.train)
    assert all(x.shape == (16, 24) and x.max() < 3 for x in labels)
    for i in (0, 3):  # of other classes, and of another size
        size = (16, 24) if i else (3, 3)
        mask_sets.save(root / f"clear/masks/train/{i}.png", np.full(size, 9, np.uint8))
    train = open_data(config(root).data, "").train
    labels = {bare.data.train.name_of(i): label for i, label in enumerate(labels)}
    again = {train.name_of(i): label for i, label in enumerate(labels_of(bare.teacher, train))}
    both = labels.keys() & again.keys()  # one of each is dealt to val
    assert len(labels) == len(again) == 5 and len(both) >= 4
    assert all(np.array_equal(labels[name], again[name]) for name in both)


def test_of_a_folder_with_few_masks_these_are_dealt_and_all_others_train(tmp_path):
    for i in range(12):
        image, mask = mask_sets.scene(i)
        mask_sets.save(tmp_path / f"photos/images/{i}.png", image)
        if i < 6:
            mask_sets.save(tmp_path / f"photos/masks/{i}.png", mask)
    (tmp_path / "classes.txt").write_text("\n".join(mask_sets.NAMES))
    found = open_masks(root=str(tmp_path))
    train, test = (found.source("photos", split) for split in ("train", "test"))
    assert train.masked and test.masked and len(train.missing) == 6 and not test.missing
    names = lambda source: {source.name_of(i) for i in range(len(source))}
    alone = train.alone()
    assert not alone.masked and len(alone) == len(train) + 6 == len(names(alone))
    assert names(alone) >= names(train) and not names(alone) & names(test)
    assert repr(alone) != repr(train)
    assert np.array_equal(alone[len(alone) - 1].image, mask_sets.scene(9)[0])  # by name: 9 is last


def test_the_split_with_masks_is_tested(root):
    shutil.move(root / "clear/images/test", root / "clear/images/val")
    shutil.move(root / "clear/masks/test", root / "clear/masks/val")
    shutil.copytree(root / "fog/images/test", root / "clear/images/test")
    data = open_data(config(root).data, "")
    assert data.tests["clear"].split == "val" and data.measured == ("clear",)
    assert data.tests["fog"].split == "test" and not data.tests["fog"].masked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"methods": {"student": STUDENT, "linear": {}}},
            "methods.linear trains on masks, and the training images of 'clear' have none; add",
        ),
        (
            {"teacher": {"unseen": ("box",)}},
            "methods.student, which has teacher.unseen, trains on masks, and the training images",
        ),
        (
            {"data": {"source": "clear+fog"}, "methods": {"linear": {}}},
            "methods.linear trains on masks, and the training images of 'clear' have none",
        ),
        ({"data": {"evaluate": "val"}}, "data.evaluate=val needs val and test images with masks"),
    ],
)
def test_what_needs_masks_is_refused_where_none_are_before_a_model_is_read(root, changes, words):
    with pytest.raises(ConfigError, match=words):
        prepare(config(root, model="none", **changes))


def test_a_domain_without_masks_is_not_mixed_in(root):
    mask_sets.folders(root, ("clear",), {"train": 6, "test": 3})
    given = {"mixing": {"shares": (0.5,), "domain": "fog"}, "methods": {"linear": {}}}
    given["data"] = {"evaluate": "test", "targets": ("game",)}
    mask_sets.folders(root, ("game",), {"train": 1, "test": 1})
    with pytest.raises(ConfigError, match="mixing.domain=fog has no training images with masks"):
        prepare(config(root, model="none", **given))


def test_masks_that_lie_elsewhere_and_a_lack_of_class_names_are_refused(root):
    opened = lambda: open_masks(root=str(root))
    mask_sets.save(root / "clear/masks/training/0.png", mask_sets.scene(0)[1])
    words = "images/train has no mask in .*masks/train, and .*masks/training/0.png is none; write"
    with pytest.raises(DataError, match=words):
        opened()
    shutil.rmtree(root / "clear/masks/training")
    mask_sets.save(root / "clear/masks/train/0_mask.png", mask_sets.scene(0)[1])
    with pytest.raises(DataError, match="holds no image with a mask in .*; give a mask the name"):
        opened()
    shutil.rmtree(root / "clear/masks/train")
    (root / "fog/masks").mkdir()
    (root / "fog/masks/0.npy").write_bytes(b"")
    with pytest.raises(DataError, match="fog/images/.* has no mask .*fog/masks/0.npy is none"):
        opened()
    shutil.rmtree(root / "fog/masks")
    (root / "classes.txt").unlink()
    for _ in range(2):  # with some masks, and with none
        with pytest.raises(DataError, match="has no classes.txt, which names the class of value 0"):
            opened()
        shutil.rmtree(root / "clear/masks", ignore_errors=True)


def test_beside_other_datasets_folders_of_images_alone_are_none(root):
    data = mask_sets.acdc(root.parent / "all/acdc").parent
    shutil.move(root / "fog", data / "coco/fog")
    assert recognise_masks(data).name == "joined"
    assert open_masks(root=str(data)).domains == ("fog", "night", "rain", "snow")


def test_its_config_trains_on_a_teachers_labels_alone():
    made = parsed(maskclip_images.get_config("root=/data,source=photos,smoke"))
    assert {m.name: m.labels for m in made.decoders if m.decoder != "zero_shot"} == {
        "student": "teacher"
    }
    assert made.data.source == "photos" and not made.data.train


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_masks_and_classes_alone(root, wee_clip, tmp_path):
    out, methods = tmp_path / "run", {name: {"decoder": "zero_shot"} for name in ("one", "two")}
    made = config(root, model=str(wee_clip), methods=methods, overlays=0)
    run(made, out)
    (out / "segmentation.json").unlink()
    (out / "rows/two.json").unlink()  # as if it had been killed before
    run(made, out)
    (out / "segmentation.json").unlink()
    (out / "rows/two.json").unlink()
    (root / "classes.txt").write_text("\n".join(reversed(mask_sets.NAMES)))
    words = "images, masks or classes of clear in tests, fog in tests, training are not those that"
    with pytest.raises(DataError, match=words):
        run(made, out)
    (root / "classes.txt").write_text("\n".join(mask_sets.NAMES))
    (root / "clear/masks/test/0.png").write_bytes((root / "clear/masks/test/1.png").read_bytes())
    with pytest.raises(DataError, match="images, masks or classes of clear in tests are not those"):
        run(made, out)
