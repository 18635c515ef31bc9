"""Memory of a train step, as XLA's CPU compiler plans it: what frozen stages do without.

    python -m benchmarks.memory --task=stages --shape=vit_b16

Nothing is run and there are no weights. Part of `benchmarks.memory`, which has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax

from clipjax.aot.step import AbstractStep, abstract_step
from clipjax.configs import dann_two_stage, finetune
from clipjax.model.shapes import named_shape
from clipjax.study import Study, parse

BATCH = 8  # images a domain: few, so that parameters stand out from activations


def stages() -> list[tuple[str, Study, str]]:
    """(what it is, study, phase) of every row."""
    head, cached = finetune.get_config(), dann_two_stage.get_config()
    pixels = dann_two_stage.get_config()
    pixels.methods.two_stage.phases.frozen.augment = {"smallest": 0.5, "flip": True}
    rows = [
        ("frozen head, cached features", head, ""),
        ("frozen DANN, cached features", cached, "frozen"),
        ("frozen DANN, augmented pixels", pixels, "frozen"),
        ("unfrozen two-stage DANN", cached, "unfrozen"),
    ]
    for _, config, _ in rows:
        config.batch_size, config.compute_dtype = BATCH, "float32"  # bfloat16 is emulated on CPUs
    return [(name, parse(config.to_dict()), phase) for name, config, phase in rows]


def size(tree) -> int:
    """Bytes of arrays or shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def of_encoder(tree) -> int:
    """Bytes of the leaves that lie under "clip"."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return size([x for path, x in leaves if "'clip'" in jax.tree_util.keystr(path)])


def planned(made: AbstractStep) -> tuple[int, int]:
    """(peak, temporaries) in bytes of a compiled step, its state donated."""
    program = jax.jit(made.step, donate_argnums=0).lower(made.state, made.batch).compile()
    memory = program.memory_analysis()
    beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes
    return memory.argument_size_in_bytes + temporaries + beside, temporaries


def rows(shape: str) -> Iterator[str]:
    """A line for every stage."""
    for name, study, phase in stages():
        made = abstract_step(study, named_shape(shape), phase=phase)
        peak, temporaries = planned(made)
        yield (
            f"{shape}, {name:30} peak {peak / 1e6:8.1f} MB: encoder "
            f"{of_encoder(made.state.params) / 1e6:.1f}, its moments "
            f"{of_encoder(made.state.opt_state) / 1e6:.1f}, temporaries {temporaries / 1e6:.1f}"
        )
