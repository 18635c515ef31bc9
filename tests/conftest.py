"""Shared by all tests: a quiet environment, a tiny random CLIP on disk, a small folder dataset."""

import gc
import importlib.metadata
import json
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# No test reads or writes the user's caches; and many start the same command line again: let them,
# in all of xdist's workers, share encoded features and what XLA compiled.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["CLIPJAX_CACHE"] = tempfile.mkdtemp(prefix="clipjax-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["CLIPJAX_CACHE"] + "/xla")
# Tests compile more than they compute: code that is not optimised, the same arithmetic, the older
# emitters of fused loops, which compile in a quarter of the time, and a program as one piece: cut
# for several threads it takes a fifth more work. XLA ends a process that gives it a flag it does
# not know, and these emitters will not be there forever.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)
# The many small programs of a study too: a second one in a process of its own takes half the time.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.model.clip import CLIPConfig, TextConfig, VisionConfig
from clipjax.model.hf.params import abstract_params
from tests import contexts

# Little of what tracing and compiling leave is garbage; searching it takes time.
gc.set_threshold(50_000, 20, 20)
contexts.share()

REPO = pathlib.Path(__file__).parent.parent
TINY = REPO / "clipjax" / "assets" / "tiny_clip"


# Files that take longest, those first: a worker takes a whole file at a time, in this order, and
# one that began its longest last would work on alone.
LONGEST = (
    "test_processes.py",
    "test_contract.py",
    "test_cli.py",
    "test_tour.py",
    "test_sharding.py",
    "test_segmentation.py",
    "test_study.py",
    "test_export.py",
    "test_adapter.py",
    "test_suite.py",
    "test_segmentation_diffusion.py",
    "test_segmentation_models.py",
    "test_segmentation_files.py",
    "test_diffusion.py",
    "test_diffusion_parity.py",
    "test_parity.py",
    "test_two_devices.py",
    "test_cite.py",
    "test_preserve.py",
    "test_data_fields.py",
    "test_closed_form.py",
    "test_few_shot.py",
    "test_few_shot_methods.py",
    "test_classics.py",
    "test_forgetting.py",
    "test_image_only.py",
    "test_timm.py",
    "test_lora.py",
    "test_prompts.py",
    "test_sweep.py",
    "test_public.py",
    "test_start.py",
    "test_inspect.py",
    "test_heap.py",
    "test_anchored.py",
    "test_scaling.py",
    "test_arrays.py",
    "test_folded.py",
    "test_pretrain.py",
    "test_launch.py",
    "test_heads.py",
    "test_hf.py",
    "test_preemption.py",
    "test_against_torch.py",
    "test_fields.py",
    "test_step.py",
    "test_align.py",
    "test_backbone.py",
    "test_onnx.py",
    "test_several_sources.py",
)


# Fixtures that train or start processes: whichever test asks first pays for them.
SLOW = {"eight", "said", "exported", "finished", "swept", "two_stage", "undisturbed"}


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items):
    """Puts the longest files first; the order within a file stays. Marks what is slow."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    for item in items:
        if SLOW.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    gc.collect()
    gc.freeze()  # all modules are there, and stay


def pytest_unconfigure():
    """Removes the caches of this session."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["CLIPJAX_CACHE"], ignore_errors=True)


def small_config(**changes) -> CLIPConfig:
    """A CLIP of two layers that runs in milliseconds."""
    vision = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    text = dict(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        vocab_size=100,
        max_position_embeddings=12,
        bos_token_id=98,
        eos_token_id=99,
        pad_token_id=99,
    )
    vision.update(changes.get("vision", {}))
    text.update(changes.get("text", {}))
    return CLIPConfig(VisionConfig(**vision), TextConfig(**text), changes.get("projection", 16))


def random_params(config: CLIPConfig, seed: int = 0):
    """Parameters with every bias and norm away from its trivial initial value."""
    rng = np.random.default_rng(seed)

    def fill(path, shape):
        name = jax.tree_util.keystr(path)
        mean = 1.0 if "scale'" in name and "logit" not in name else 0.0
        spread = 0.1 if len(shape.shape) < 2 else shape.shape[0] ** -0.5
        return jnp.asarray(
            mean + spread * rng.standard_normal(shape.shape, np.float32), jnp.float32
        )

    return jax.tree_util.tree_map_with_path(fill, abstract_params(config))


def random_tokens(config: CLIPConfig, n: int, seed: int = 0) -> np.ndarray:
    """Token ids int32 [n, context]: BOS, words, EOS, padding; of several lengths."""
    rng = np.random.default_rng(seed)
    text = config.text
    length = text.max_position_embeddings
    ids = rng.integers(3, text.vocab_size - 2, (n, length))
    ids[:, 0] = text.bos_token_id
    for i in range(n):
        end = int(rng.integers(2, length))
        ids[i, end:] = text.eos_token_id
    return ids.astype(np.int32)


@pytest.fixture(scope="session")
def wee_clip(tmp_path_factory):
    """A directory in Hugging Face layout: a random CLIP of one layer with the tiny one's words."""
    from clipjax.data.images.preprocess import Preprocess, save_preprocess
    from clipjax.model.hf.hub import copy_tokenizer, find_model
    from clipjax.model.hf.load import save_clip

    out = tmp_path_factory.mktemp("wee")
    words = {"vocab_size": 3043, "bos_token_id": 3041, "eos_token_id": 3042, "pad_token_id": 3042}
    one = {"num_hidden_layers": 1}
    config = small_config(vision=one, text=one | words)
    save_clip(out, config, random_params(config))
    save_preprocess(out, Preprocess(size=32))
    copy_tokenizer(find_model("tiny"), out)
    return out


@pytest.fixture(scope="session")
def wee_vit(tmp_path_factory):
    """A directory in Hugging Face layout: a random supervised ViT of two layers, without words."""
    from clipjax.io import write_json
    from clipjax.model.hf.weights import write_tensors

    out, width, rng = tmp_path_factory.mktemp("vit"), 24, np.random.default_rng(0)
    sizes = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    write_json(out / "config.json", {"model_type": "vit", **sizes})
    rules = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    rules |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    write_json(out / "preprocessor_config.json", rules)
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, 17, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
    }
    for layer in range(2):
        dense = {f"attention.attention.{x}": (width, width) for x in ("query", "key", "value")}
        dense |= {"attention.output.dense": (width, width)}
        dense |= {"intermediate.dense": (48, width), "output.dense": (width, 48)}
        for name, shape in dense.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in ("layernorm_before", "layernorm_after"):
            shapes |= {f"encoder.layer.{layer}.{name}.{x}": (width,) for x in ("weight", "bias")}
    near = lambda name, shape: ("norm" in name and "weight" in name) + rng.normal(0, 0.2, shape)
    tensors = {f"vit.{k}": near(k, v).astype(np.float32) for k, v in shapes.items()}
    write_tensors(out / "model.safetensors", tensors)
    return out


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """As `folder_dataset`, for tests that only read it."""
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def folder_dataset(tmp_path):
    """root/domain/class/image.png with 2 domains, 3 classes of plain colours, 6 images each."""
    return make_photos(tmp_path / "photos")


def make_photos(root):
    """Writes the dataset of `folder_dataset`."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for d, domain in enumerate(("real", "sketch")):
        for c, name in enumerate(("blue", "green", "red")):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 60, (40, 50, 3), dtype=np.uint8)
                pixels[..., 2 - c] += 150 - 40 * d
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def programs():
    """What the runs of a file have compiled: those of the same methods take it from one another."""
    from clipjax.study import Programs

    return Programs()


def parsed(config):
    """A config of configs/*.py as the commands' door makes it."""
    from clipjax.study import parse

    return parse(config.to_dict())


def methods_of(config, classes: int = 3):
    """The methods that a config of configs/*.py trains, by name, on so many classes."""
    from clipjax.study.methods import build_methods

    return build_methods(parsed(config), tuple(f"class {i}" for i in range(classes)))


def read_json(path):
    """A JSON file's content."""
    return json.loads(pathlib.Path(path).read_text())
