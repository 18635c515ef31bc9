"""Studies over data as published: a target without train, one with test alone, a single domain."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.data.dataset import ArrayDataset, ArraySource
from clipjax.errors import ConfigError
from clipjax.evaluate import class_sets
from clipjax.study import Data, Encoder, Study, Training, measured, run
from clipjax.study.plan import check_parts, matched_data, needed_parts
from tests.data import published as fakes

HEAD = {"head": {"loss": "finetune", "heads": {"classifier": ()}}}
DANN = {
    "dann": {"loss": "dann", "heads": {"adapter": (4,), "classifier": (), "discriminator": (4,)}}
}


def study(root, wee_clip, methods=HEAD, **data):
    return Study(
        encoder=Encoder(model=str(wee_clip)),
        data=Data(root=str(root), max_unreadable=0.0, **data),
        training=Training(seeds=(0,), epochs=1, batch_size=4),
        methods=methods,
        stages=tuple(methods),
    )


@pytest.mark.slow
def test_a_target_without_train_is_measured_by_groups_and_adapted_to_by_none(wee_clip, tmp_path):
    root = fakes.fmow(tmp_path / "fmow", extra=16)
    asked = study(root, wee_clip, source="id", target="ood")
    dataset, _ = matched_data(asked)
    assert ("ood", "train") not in needed_parts(asked, dataset)
    with pytest.raises(ConfigError, match="dann adapts to training images of 'ood', which has val"):
        check_parts(study(root, wee_clip, DANN, source="id", target="ood"), dataset)
    found = run(dataclasses.replace(asked, evaluations={"base": {"classes": "base"}}))
    among = {(r["method"], r["domain"]): r for r in found.rows if r["classes"] == "base"}
    assert among["head", "ood"]["n"] == 8 and among["head", "ood"]["macro_f1_mean"] is not None
    rows = {(r["method"], r["domain"]): r for r in found.rows if r["split"] == "test"
            and r["classes"] == "all"}  # fmt: skip
    for method in ("zero_shot", "head"):
        row = rows[method, "ood"]
        assert row["n"] == 19 and row["worst_groups"][0] in ("Europe", "Asia")
        assert 0 <= row["worst_group_accuracy_mean"] <= 1 and row["macro_f1_mean"] is not None


@pytest.mark.slow
def test_a_single_domain_of_few_shots_is_source_and_target_and_base_is_tested_on_new(
    wee_clip, tmp_path
):
    root = fakes.coop(tmp_path / "caltech-101", classes=4)
    ends = {"source": "caltech101", "target": "caltech101", "classes": "base"}
    few = {"shots": 2, "shots_rule": "coop", "subset_seed": 1}
    new = {"new": {"classes": "new"}}
    linear = dataclasses.replace(study(root, wee_clip, **ends, **few), evaluations=new)
    with pytest.raises(
        ConfigError, match="methods.head cannot answer evaluations.new, as of 'kind"
    ):
        run(linear)
    free = {"freeze": ("clip/text/.*", "clip/logit_scale")}  # an image tower of its own
    texts = {"text": {"loss": "finetune", "heads": {"text": True}} | free}
    asked = dataclasses.replace(study(root, wee_clip, texts, **ends, **few), evaluations=new)
    found = run(asked)
    assert any("caltech101 is source and target" in n
               for n in found.results["notes"])  # fmt: skip
    count = lambda split, classes: {
        r["method"]: r["n"] for r in found.rows if (r["split"], r["classes"]) == (split, classes)
    }
    assert count("test", "all") == count("test", "new") == {"zero_shot": 6, "text": 6}
    assert count("val", "all") == {"zero_shot": 4, "text": 4}  # 2 a class
    header, lines = class_sets.cells(found.results)
    assert header == ["method", "classes", "caltech101"]
    assert [line[1] for line in lines] == ["base", "new", "harmonic mean"] * 2
    with pytest.raises(ConfigError, match="'kind_0' has 6 examples.*data.shots_missing=all"):
        check_parts(*(lambda s: (s, matched_data(s)[0]))(study(root, wee_clip, **ends, shots=7)))
    # Zero-shot among the base classes alone is that of a run that has no others.
    every = study(root, wee_clip, {}, source="caltech101", target="caltech101")
    more = run(dataclasses.replace(every, evaluations={"base": {"classes": "base"}, **new}))
    zero = lambda results, classes: next(
        r["ece"] for r in results.rows if r["classes"] == classes and r["method"] == "zero_shot"
        and r["split"] == "test")  # fmt: skip
    assert zero(more, "base") == zero(found, "all") and zero(more, "new") == zero(found, "new")


def test_test_images_alone_are_dealt_for_a_target_and_stay_whole_elsewhere(wee_clip, tmp_path):
    root = fakes.imagenet(tmp_path / "data")
    asked = study(root, wee_clip, source="imagenet", target="imagenet_sketch")
    dataset, notes = matched_data(asked)
    assert any(n.startswith("imagenet_sketch has test images alone: as the target") for n in notes)
    sizes = {part: len(dataset.source(*part)) for part in needed_parts(asked, dataset)}
    assert sum(sizes["imagenet_sketch", s] for s in ("train", "val", "test")) == 12
    assert sizes["imagenet_v2", "test"] == 12 and ("imagenet_v2", "val") not in sizes
    names = {dataset.source("imagenet_sketch", s)[i].name for s in ("train", "val", "test")
             for i in range(sizes["imagenet_sketch", s])}  # fmt: skip
    assert len(names) == 12
    with pytest.raises(ConfigError, match="data.classes=intersection"):
        matched_data(study(root, wee_clip, source="imagenet", target="imagenet_a"))
    few = study(root, wee_clip, source="imagenet", target="imagenet_a", classes="intersection")
    dataset, _ = matched_data(few)
    assert len(dataset.classes) == 3 and dataset.texts[dataset.classes[0]] == "missile"


def test_a_and_r_are_scored_among_their_own_classes(wee_clip, tmp_path):
    root = fakes.imagenet(tmp_path / "data")
    ends = {"source": "imagenet", "target": "imagenet_v2"}
    given = {"root": root, "wee_clip": wee_clip, "methods": {}, **ends}
    asked = study(**given)
    dataset, notes = matched_data(asked)
    assert "imagenet_a is scored among its own 3 classes" in notes
    encoded = types.SimpleNamespace(study=asked, plan=types.SimpleNamespace(dataset=dataset))
    among = measured.present(encoded, "imagenet_a")
    assert np.flatnonzero(among).tolist() == [1, 4, 11]
    assert measured.present(encoded, "imagenet_v2").all()
    logits = jnp.asarray(np.eye(12)[[0, 4]] + 0.5 * np.eye(12)[[11, 2]], jnp.float32)
    labels = np.array([11, 4], np.int32)
    every = measured.score(logits, logits[None], labels)
    own = measured.score(logits, logits[None], labels, None, among)
    assert (every["accuracy"], own["accuracy"], own["macro_f1"]) == (0.5, 1.0, 1.0)
    assert np.isfinite(own["ece"])
    assert not any("scored among" in n for n in matched_data(study(**given, score_among="all"))[1])
    alone = study(**given, domains=("imagenet_sketch",), score_among="all")
    with pytest.raises(ConfigError, match="data.score_among=all has no effect: every domain eval"):
        matched_data(alone)


def test_a_target_with_train_keeps_its_splits(wee_clip, tmp_path):
    images = lambda n: np.full((n, 8, 8, 3), n, np.uint8)
    part = lambda domain, split, n: ArraySource(
        images(n), np.arange(n) % 2, classes="ab", domain=domain, split=split
    )
    parts = {"a": ("train", "val", "test"), "b": ("train", "test")}
    given = ArrayDataset({d: {s: part(d, s, 4) for s in has} for d, has in parts.items()})
    dataset, notes = matched_data(study("", wee_clip, source="a", target="b"), given)
    assert dataset.splits_of("b") == ("train", "test") and len(dataset.source("b", "test")) == 4
    assert not any("dealt" in note for note in notes)
