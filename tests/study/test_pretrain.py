"""The contrastive stage on a corpus of noise: it runs, resumes and exports."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipjax.log import read_log
from clipjax.model.hf.load import load_clip
from clipjax.study import run
from configs import pretrain
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
    return root


@pytest.mark.slow
def test_the_pretraining_stage_runs_resumes_and_exports(corpus, tmp_path):
    config = pretrain.get_config("smoke")
    config.data.root, config.distill = str(corpus), 0.0
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
