"""The contrastive stage on a corpus of noise: it runs, resumes and exports."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipjax.adapt.contrastive import feature_distance
from clipjax.configs import pretrain
from clipjax.errors import ConfigError
from clipjax.log import read_log
from clipjax.model.hf.load import load_clip
from clipjax.study import parse, run
from clipjax.study.pretrain import prepare
from tests.conftest import parsed


@pytest.fixture
def corpus(tmp_path):
    """40 drawings of noise, as `tools/build_icon_corpus.py` lays them out."""
    root = tmp_path / "corpus"
    root.mkdir()
    rng = np.random.default_rng(0)
    np.save(root / "masks.npy", rng.integers(0, 256, (20, 64, 64), dtype=np.uint8))
    np.save(root / "rgba.npy", rng.integers(0, 256, (20, 64, 64, 4), dtype=np.uint8))
    columns = {
        "caption": [f"thing {i}" for i in range(40)],
        "texts": [["stuff", f"object {i % 3}"] for i in range(40)],
        "kind": ["mask"] * 20 + ["rgba"] * 20,
        "row": [*range(20), *range(20)],
        "group": ["icon-mono"] * 20 + ["icon-colour"] * 10 + ["emoji-train"] * 10,
    }
    pq.write_table(pa.table(columns), root / "manifest.parquet")
    taught = np.where(np.arange(40) % 3, np.arange(40), -1).astype(np.int32)
    features = rng.normal(size=(40, 5)).astype(np.float16)
    np.savez(root / "teacher.npz", features=features, row=taught)
    return root


def test_the_distance_to_a_teacher_is_that_of_taught_images_over_all():
    rng = np.random.default_rng(0)
    image, teacher = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    linear = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    taught = np.array([True, False, True, True])
    away = ((image @ linear["kernel"] + linear["bias"] - teacher) ** 2).sum(axis=1)
    found = feature_distance(linear, image, np.where(taught[:, None], teacher, np.nan), taught)
    assert float(found) == pytest.approx(away[taught].sum() / 4, rel=1e-5)


@pytest.mark.parametrize(
    "styles, words",
    [({"stencl": 1.0}, "no 'stencl'; known: colour, grey"), ({"grey": 0.0}, "one above 0")],
)
def test_shares_of_styles_that_cannot_be_are_refused(styles, words):
    config = pretrain.get_config().to_dict()
    config["augment"]["styles"] = styles
    with pytest.raises(ConfigError, match=words):
        prepare(parse(config))


def test_a_corpus_without_a_teacher_is_named(corpus, tmp_path):
    (corpus / "teacher.npz").unlink()
    config = pretrain.get_config("smoke")
    config.data.root = str(corpus)
    with pytest.raises(
        ConfigError, match=r"none; `python tools/teach_corpus.py --corpus=.*makes them"
    ):
        run(parsed(config), tmp_path / "run")


@pytest.mark.slow
def test_the_pretraining_stage_runs_resumes_and_exports(corpus, tmp_path):
    config = pretrain.get_config("smoke")
    config.data.root = str(corpus)
    for tower in ("vision", "text"):  # narrow and shallow: this test compiles more than it trains
        config.arch[tower].num_hidden_layers, config.arch[tower].num_attention_heads = 1, 2
        config.arch[tower].hidden_size, config.arch[tower].intermediate_size = 32, 64
    run(parsed(config), tmp_path / "run")
    out = tmp_path / "run" / "export"
    found, params = load_clip(out)
    assert found.vision.num_hidden_layers == 1 and "text" in params
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    assert {"val/render", "val/sketch"} <= set(records[-1]) and records[-1]["step"] == 4
    weights = (out / "model.safetensors").read_bytes()
    shutil.rmtree(out)
    run(parsed(config), tmp_path / "run")  # trained already: it only exports
    assert (out / "model.safetensors").read_bytes() == weights
