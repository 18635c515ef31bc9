"""Steps on Stable Diffusion: recomputed blocks, bfloat16 and microbatches; their memory; TPUs."""

import jax
import numpy as np
import optax
import pytest

from benchmarks.gpu_rows import TINY_DIFFUSION, apart, filled
from clipjax.aot import ask as asking
from clipjax.aot import report
from clipjax.aot.ask import Question
from clipjax.aot.compiled import Compiled
from clipjax.aot.diffusion import abstract_diffusion_step
from clipjax.aot.topology import Topology
from clipjax.configs import vpd_driving
from clipjax.errors import ConfigError
from clipjax.model.diffusion.memory import step_bytes
from clipjax.model.diffusion.sizes import SIZES, abstract_params, named_sizes
from clipjax.model.diffusion.vpd import VPDConfig
from clipjax.study import parse, segmentation_trainer

IMAGES, SIDE, CLASSES = 4, 32, 5


def config(**changes):
    """A free UNet in float32, everything kept."""
    made = vpd_driving.get_config()
    made.diffusion.update(compute_dtype="float32", remat="none")
    made.data.crop, made.batch_size, made.width = (SIDE, SIDE), IMAGES, 8
    made.diffusion.update({k: v for k, v in changes.items() if k in made.diffusion})
    made.update({k: v for k, v in changes.items() if k not in made.diffusion})
    return parse(made.to_dict())


def compiled(**changes):
    made = abstract_diffusion_step(config(**changes), TINY_DIFFUSION, CLASSES, method="vpd_sub")
    given = made.state, made.batch, *made.shared
    return jax.jit(made.step, donate_argnums=0).lower(*given).compile(), given


def gradients(program, given):
    """The loss of a step, and the gradients that `kept` gave its optimizer."""
    state, batch, shared = (filled(x, seed) for seed, x in enumerate(given))
    rows = batch["source"]
    # Images are labelled unevenly, and the last one is padding: a mean of means would show.
    rows["label"][0, : SIDE // 2] = rows["label"][1, 5:] = 255
    rows["mask"][-1] = False
    shared["told"] = {"control": np.int32(0), "scale": np.float32(1), "shift": np.float32(-1)}
    told = jax.tree.map(lambda x, y: np.asarray(x, y.dtype), shared, given[2])
    after, metrics = program(state, batch, told)
    return float(metrics["loss"]), jax.device_get(after.opt_state[0].trace)


@pytest.fixture(scope="module")
def kept():
    """An optimizer whose state is the gradient."""
    with pytest.MonkeyPatch.context() as patch:
        plain = lambda *args, **more: optax.chain(optax.trace(0.0), optax.scale(-1e-3))
        patch.setattr(segmentation_trainer, "make_optimizer", plain)
        yield


@pytest.fixture(scope="module")
def usual(kept):
    program, given = compiled()
    return program, gradients(program, given)


@pytest.mark.slow
def test_recomputing_blocks_and_microbatches_change_nothing(kept, usual):
    loss, slopes = gradients(*compiled(remat="blocks", accumulate=2))
    assert loss == pytest.approx(usual[1][0], rel=1e-6)
    assert apart(slopes, usual[1][1]) < 1e-6


@pytest.mark.slow
def test_bfloat16_is_near_float32(kept, usual):
    loss, slopes = gradients(*compiled(compute_dtype="bfloat16", remat="blocks"))
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    assert loss == pytest.approx(usual[1][0], rel=0.01)
    assert 1e-4 < apart(slopes, usual[1][1]) < 0.1  # its products have 8 bits


@pytest.mark.slow
def test_the_plan_is_a_line_over_images_and_near_what_xla_says(usual):
    memory = usual[0].memory_analysis()
    beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
    said = memory.argument_size_in_bytes + memory.temp_size_in_bytes + beside
    vpd = VPDConfig(*TINY_DIFFUSION)
    given = {"free": True, "width": 8}
    plan = lambda n, **how: step_bytes(vpd, n, (SIDE, SIDE), CLASSES, **given, **how)
    part, two, four = plan(1, accumulate=2), plan(2), plan(IMAGES)
    assert 0.5 < said / four.total < 2
    assert four.activations - two.activations == 2 * (two.activations - part.activations)
    assert part.trained == 4 / 3 * two.trained


def test_fields_that_microbatches_cannot_have_are_refused():
    with pytest.raises(ConfigError, match="batch_size=4 in accumulate=3 microbatches cannot be"):
        config(accumulate=3)
    methods = {"a": {"decoder": "fpn", "norm": "domino", "control": "shuffled"}}
    with pytest.raises(ConfigError, match="methods.a.control=shuffled no other image"):
        config(accumulate=4, methods=methods)
    with pytest.raises(ConfigError, match="^batch_size=1 leaves methods.a.control=shuffled no"):
        config(batch_size=1, methods=methods)
    assert config(accumulate=2, methods=methods).accumulate == 2
    with pytest.raises(ConfigError, match="methods.a.stats=batch is of a whole batch"):
        config(accumulate=2, methods={"a": {"decoder": "fpn", "stats": "batch"}})


@pytest.fixture
def chip(monkeypatch):
    """A chip that is the CPU, and a compiler that notes what it is given."""
    here, noted = Topology("v5e:1x1", "v5e", 1, (jax.devices()[0],)), []

    def note(*given, **how):
        noted.append((given, how))
        return Compiled(True, 2**30, 0, flops=1e12, bytes_accessed=1e9)

    monkeypatch.setattr(asking, "open_topology", lambda name: here)
    monkeypatch.setattr(asking, "named_sizes", lambda name: TINY_DIFFUSION)
    monkeypatch.setattr(asking, "compile_step", note)
    return noted


def test_the_tpus_compiler_is_asked_about_the_step_that_trains(chip):
    asked = Question("sd15", "v5e:1x1", batch_size=2, classes=CLASSES)
    answer = asking.ask(config(accumulate=2), asked, lambda line: None)
    ((_, state, batch, _, shared), how) = chip[0]
    assert how == {"fsdp": 1, "fast": False}
    assert batch["source"]["inputs"].shape == (2, SIDE, SIDE, 3)
    assert {"unet", "adapter"} == set(state.params["backbone"]) and "vae" in shared["backbone"]
    assert (answer.images, answer.accumulate) == (2, 2) and answer.estimate is None
    assert answer.phase == "vpd_sub_domino, UNet free"
    assert report.row(answer).startswith("| sd15, UNet free | v5e:1x1 | 2 | yes | 1.0 |")


WHOLE = {"data.crop": (), "data.scale": (1.0, 1.0), "data.cat_max_ratio": 1.0}


@pytest.mark.parametrize(
    ("changes", "question", "words"),
    [
        ({}, {"fsdp": 8}, "a segmentation has no fsdp; leave --fsdp=8 out"),
        ({}, {"phase": "frozen"}, "a segmentation has no phase"),
        ({}, {"method": "vdp"}, "no method 'vdp'; known: vpd, vpd_add, "),
        (WHOLE, {}, "data.crop and data.resize are empty"),
        ({"data.crop": (32, 33)}, {}, "32 x 33 pixels do not fit: 4 must divide"),
        ({"diffusion.model": ""}, {}, "only steps on Stable Diffusion are compiled"),
    ],
)
def test_steps_that_no_run_would_take_are_not_compiled(chip, changes, question, words):
    made = vpd_driving.get_config()
    made.data.crop = (SIDE, SIDE)
    if "diffusion.model" in changes:
        made.diffusion = {}
        made.methods = {"linear": {}}
    made.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=words):
        asking.ask(parse(made.to_dict()), Question("sd15", "v5e:1x1", **question))
    assert not chip


def test_named_sizes_are_the_published_ones():
    counts = {"sd15": 859_520_964, "sd21": 865_910_724}  # parameters of the UNets, as published
    for name, whole in counts.items():
        sizes = named_sizes(name)
        unet = abstract_params(VPDConfig(*sizes))["unet"]
        found = sum(leaf.size for leaf in jax.tree.leaves(unet))
        # VPD reads neither the last norm nor the last convolution: 320 to 4 channels.
        assert found + 2 * 320 + 9 * 320 * 4 + 4 == whole
    with pytest.raises(ConfigError, match="no diffusion model 'sdxl'; known: sd15, sd21"):
        named_sizes("sdxl")
    assert set(SIZES) == set(counts)
