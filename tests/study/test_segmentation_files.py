"""Segmentation runs on images with masks on disk: crops, windows, sizes, published layouts."""

import numpy as np
import pytest

from clipjax.configs import domino_driving
from clipjax.errors import ConfigError, DataError
from clipjax.log import read_log
from clipjax.study import parse, run
from clipjax.study.segmentation_data import open_data
from clipjax.study.segmentation_maps import Encoder, are_cached
from clipjax.study.segmentation_plan import mixing_pool, prepare
from clipjax.study.segmentation_trainer import epoch_batches
from tests.conftest import read_json
from tests.data import mask_sets

CROPS = {"crop": (32, 32), "scale": (0.5, 2.0), "cat_max_ratio": 0.75, "mirror": True}
WINDOWS = {"window": (32, 32), "stride": (16, 32)}
SMALL = {
    "experiment": "segmentation",
    "seeds": (0, 1),
    "epochs": 4,
    "batch_size": 4,
    "width": 8,
    "lr": 1e-2,
    "overlays": 1,
    "descriptions": {"clear": "a clear day", "fog": "a foggy day"},
    "methods": {
        "linear": {},
        "shuffled": {"norm": "domino", "control": "shuffled", "scale": 0.0},
    },
}


def config(root, **data):
    data = {"root": str(root), "source": "clear", **data}
    return SMALL | {"data": data}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two domains of images of 48 x 64; of 8 training images one is dealt to val."""
    place = tmp_path_factory.mktemp("masks")
    return mask_sets.folders(place, counts={"train": 8, "test": 3}, size=(48, 64))


@pytest.mark.slow
def test_a_run_trains_on_crops_and_slides_windows_over_tests(root, tmp_path):
    said = []
    run(parse(config(root, **CROPS, **WINDOWS)), tmp_path, said.append)
    found = read_json(tmp_path / "segmentation.json")
    assert found["conditions"] == ["clear", "fog"] and found["classes"] == list(mask_sets.NAMES)
    assert found["images"] == {"train": {"clear": 7}, "test": {"clear": 3, "fog": 3}}
    assert found["maps"] == "maps of windows are computed in every step"
    assert found["majority"] == "ground"
    linear = found["methods"]["linear"]
    # Classes have colours of their own: what is learned shows on clear images.
    assert np.mean(linear["miou"]["clear"]) > found["constant"]["clear"] + 0.1
    losses = [np.mean(r["loss"]) for r in read_log(tmp_path / "metrics.jsonl") if "loss" in r]
    assert np.isfinite(losses).all()
    assert any("knows 64 px drawings only" in line for line in said)
    assert found["methods"]["shuffled"]["against"] == "linear"


def test_crops_of_a_step_are_a_function_of_seed_and_step(root):
    plan = prepare(parse(config(root, **CROPS, **WINDOWS)))
    train = Encoder(plan, False)(plan.data.train)
    batches = lambda seed, first: list(epoch_batches(train, seed, 4, 0, 4, first))
    whole, again, other = batches(0, 0), batches(0, 2), batches(1, 2)
    assert len(whole) == 4 and len(again) == 2
    for step in (2, 3):
        for key in ("inputs", "label", "embedding"):
            expected = whole[step]["source"][key]
            assert np.array_equal(again[step - 2]["source"][key], expected)
        assert not np.array_equal(other[step - 2]["source"]["inputs"], expected_of(whole, step))
    batch = whole[0]["source"]
    assert batch["inputs"].shape == (4, 32, 32, 3) and batch["label"].shape == (4, 32, 32)
    assert set(np.unique(batch["label"])) <= {0, 1, 2, 255}


def expected_of(batches, step):
    return batches[step]["source"]["inputs"]


@pytest.mark.slow
def test_images_of_many_sizes_are_resized_and_their_masks_are_not(root, tmp_path):
    place = mask_sets.folders(tmp_path / "data", counts={"train": 4, "test": 3}, size=(48, 64))
    image, mask = mask_sets.scene(5, (70, 40))
    mask_sets.save(place / "fog" / "images" / "test" / "1.png", image)
    mask_sets.save(place / "fog" / "masks" / "test" / "1.png", mask)
    few = config(place, resize=(32, 48)) | {"methods": {"linear": {}}, "seeds": (0,), "epochs": 1}
    run(parse(few), tmp_path / "run")
    found = read_json(tmp_path / "run" / "segmentation.json")
    assert "are computed once" in found["maps"]
    assert 0 < found["methods"]["linear"]["miou"]["fog"][0] < 1


@pytest.mark.slow
def test_the_recipe_of_driving_runs_on_its_layouts(tmp_path):
    mask_sets.cityscapes(tmp_path / "data" / "cityscapes")
    mask_sets.acdc(tmp_path / "data" / "acdc")
    given = domino_driving.get_config(f"root={tmp_path / 'data'},smoke").to_dict()
    given["data"] |= {"train": 2}
    given["methods"] = {"mask_add": given["methods"]["mask_add"]}
    run(parse(given), tmp_path / "run")
    found = read_json(tmp_path / "run" / "segmentation.json")
    assert found["conditions"] == ["cityscapes", "fog", "night", "rain", "snow"]
    assert len(found["classes"]) == 19 and found["domain"]["readout"] is not None
    for row in found["methods"].values():
        assert all(np.isfinite(row["miou"][c]).all() for c in found["conditions"])


def test_what_is_mixed_in_may_have_unreadable_images_and_is_checked_before_a_model_is_read(
    tmp_path,
):
    place = mask_sets.folders(tmp_path, ("clear", "fog", "game"), {"train": 6, "test": 2}, (48, 64))
    file = place / "game/images/train/1.png"
    file.write_bytes(file.read_bytes()[:200])

    def pooled(**changes):
        data = {"root": str(place), "source": "clear", "targets": ("fog",), "max_unreadable": 0.5}
        mixing = {"domain": "game", "shares": (0.0, 1.0)}
        made = parse(SMALL | {"data": data | changes, "mixing": mixing, "methods": {"a": {}}})
        return mixing_pool(made, open_data(made.data))

    pool, told = pooled(train=4)
    names = [source.name_of(i) for source in pool for i in range(len(source))]
    assert str(file) not in names and str(place / "game/images/train/0.png") in names
    assert told.startswith("for mixing, 1 of") and str(file) in told
    assert len(pooled(crop=(32, 32), train=4)[0]) == 2
    with pytest.raises(ConfigError, match="mixing.shares has 1: 1 of .* of 'game', which has"):
        pooled()
    with pytest.raises(DataError, match="1 of .* cannot be used, more than data.max_unreadable"):
        pooled(train=4, max_unreadable=0.01)
    image, mask = mask_sets.scene(5, (72, 40))
    mask_sets.save(file, image)
    mask_sets.save(place / "game/masks/train/1.png", mask)
    words = "'clear' and mixing.domain=game together have 2 sizes .48 x 64, 72 x 40.; give data.res"
    with pytest.raises(ConfigError, match=words):
        pooled(train=4)


def test_validation_of_what_has_no_third_split_is_refused(tmp_path):
    mask_sets.cityscapes(tmp_path / "data")
    data = {"root": str(tmp_path / "data"), "source": "cityscapes", "evaluate": "val"}
    words = "domain 'cityscapes' of .* has no test; val is what a run tests there; leave data.eval"
    with pytest.raises(ConfigError, match=words):
        prepare(parse(SMALL | {"model": "none", "data": data}))


def test_the_recipe_of_driving_is_the_papers():
    made = parse(domino_driving.get_config("root=/data").to_dict())
    assert made.data.targets == ("fog", "night", "rain", "snow")
    assert made.data.crop == made.data.window == (512, 512)
    assert (made.lr, made.weight_decay) == (8e-5, 1e-3)
    steps = made.epochs * -(-2975 // made.batch_size)
    assert abs(steps - 80_000) < 100 and round(made.warmup * steps) == 1500


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"crop": (30, 32)},
            "data.crop has 30 x 32 pixels, which patches of 8 do not",
        ),
        (
            {"crop": (32, 32), "window": (20, 20)},
            "data.window has 20 x 20 pixels, which patches",
        ),
        ({"resize": (50, 64)}, "images have 50 x 64 pixels, .* give data.resize=.\\(48, 64\\)"),
        ({"crop": (32, 32), "window": (64, 64)}, "data.window=.* is larger than an image of 48 x"),
        ({"root": ""}, "data.name='joined' needs"),
    ],
)
def test_sizes_that_no_patch_divides_are_refused(root, changes, words):
    data = config(root)["data"] | changes
    data |= {"name": "joined"} if "root" in changes else {}
    with pytest.raises(ConfigError, match=words):
        prepare(parse(SMALL | {"data": data}))


def test_kept_maps_of_crops_are_refused(root):
    for changes, what in (
        (CROPS, "crops"),
        (WINDOWS, "windows"),
        ({"mirror": True}, "images that"),
    ):
        plan = prepare(parse(config(root, **changes) | {"maps": "cached"}))
        with pytest.raises(ConfigError, match=f"maps=cached keeps .* the run reads {what}"):
            are_cached(plan, 4)
