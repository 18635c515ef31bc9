"""Questions to the TPU's compiler, and its answers; the largest batch that fits."""

import dataclasses
from collections.abc import Callable
from typing import Any

from clipjax.aot.compiled import Compiled, compile_step
from clipjax.aot.diffusion import abstract_diffusion_step
from clipjax.aot.roofline import CHIPS, Chip, Estimate
from clipjax.aot.step import AbstractStep, abstract_step
from clipjax.aot.topology import Topology, open_topology
from clipjax.errors import ConfigError
from clipjax.model.diffusion.sizes import named_sizes
from clipjax.model.shapes import named_shape
from clipjax.study.config import Study
from clipjax.study.segmentation_config import Segmentation
from clipjax.train.distributed.sharding import DATA, make_mesh

PER_CHIP = 64  # images a domain, where no batch size is asked for
CROPS = 1  # the same of a segmentation
TRIES = 3  # compilations that check and correct a guess
ROOM = 0.98  # of HBM; the compiler keeps the rest (it gives 15.75 of 16 GiB on v5e)


@dataclasses.dataclass(frozen=True)
class Question:
    """A step to compile; empty names and zeros mean the defaults of `clipjax compile`."""

    model: str
    topology: str
    method: str = ""
    phase: str = ""
    batch_size: int = 0  # of one domain, on all chips
    fsdp: int = 0  # devices that share each parameter; 0: as config.mesh.fsdp says
    fast: bool = False
    classes: int = 19  # of a segmentation; a study's are those of its data


@dataclasses.dataclass(frozen=True)
class Answer:
    """The compiler's figures for a step, and what they hold for."""

    question: Question  # with its batch size and fsdp
    phase: str  # full name
    chips: int
    devices_per_chip: int
    images: int  # a step, of both domains
    accumulate: int
    compiled: Compiled

    @property
    def chip(self) -> Chip:
        """The chip's peak rates and memory."""
        return CHIPS[self.question.topology.partition(":")[0]]

    @property
    def estimate(self) -> Estimate | None:
        """The step's time; None without a program, or with a loop, of which one trip is counted."""
        found, chip, devices = self.compiled, self.chip, self.devices_per_chip
        if not found.fits or self.accumulate > 1:
            return None
        return Estimate(
            devices * found.flops / chip.flops,
            devices * found.bytes_accessed / chip.hbm_rate,
            devices * found.sent / chip.ici_rate,
        )


def ask(
    study: Study | Segmentation, question: Question, say: Callable[[str], None] = print
) -> Answer:
    """Compile the step that a study, or a segmentation on Stable Diffusion, trains with.

    ConfigError: an unknown model, topology, method or phase; no libtpu; sizes that do not divide;
    pmap; a phase on cached features, which has no step on a mesh.
    """
    topology, dense = open_topology(question.topology), isinstance(study, Segmentation)
    sizes = named_sizes(question.model) if dense else named_shape(question.model)
    training = study if dense else study.training
    usual = CROPS * training.accumulate if dense else PER_CHIP
    size = question.batch_size or usual * topology.chips
    if size % (len(topology.devices) * training.accumulate):
        raise ConfigError(
            f"batch_size={size} cannot be dealt out to {len(topology.devices)} devices in "
            f"accumulate={training.accumulate} microbatches; choose a multiple of their product."
        )
    fsdp = _cut(study, question, topology)
    question = dataclasses.replace(question, batch_size=size, fsdp=fsdp)
    say(f"compiling {question.model} for {question.topology}, batch {size} a domain ...")
    made = _abstract(study, question, sizes)
    if made.cached:
        fault = f"{made.name} trains on cached features, without a step on a mesh"
        raise ConfigError(f"{fault}; ask about a phase that trains from pixels (--phase).")
    parts = made.step, made.state, made.batch, topology, *made.shared
    compiled = compile_step(*parts, fsdp=fsdp, fast=question.fast)
    say(f"... took {compiled.seconds:.0f} s")
    chips, images = (topology.chips, topology.devices_per_chip), size * len(made.batch)
    return Answer(question, made.name, *chips, images, training.accumulate, compiled)


def _cut(study: Study | Segmentation, question: Question, topology: Topology) -> int:
    """Return how many devices share each parameter; ConfigError for what training would not do."""
    if isinstance(study, Segmentation):
        for name in ("fsdp", "phase"):
            if (value := getattr(question, name)) not in (0, 1, ""):
                raise ConfigError(f"a segmentation has no {name}; leave --{name}={value} out.")
        return 1
    devices = study.devices
    fsdp = question.fsdp or devices.mesh.fsdp
    if devices.parallel != "jit":
        raise ConfigError(f"parallel={devices.parallel!r}: only jit's step can be compiled here.")
    if devices.mesh.data not in (0, make_mesh(topology.devices, fsdp).shape[DATA]):
        mesh = f"mesh.data={devices.mesh.data} times fsdp={fsdp}"
        raise ConfigError(f"{mesh} is not all of {topology.name}; take mesh.data=0.")
    return fsdp


def _abstract(study: Study | Segmentation, question: Question, sizes: Any) -> AbstractStep:
    """Make the step over shapes, of the question's batch size."""
    size, method = question.batch_size, question.method
    if isinstance(study, Segmentation):
        study = dataclasses.replace(study, batch_size=size)
        return abstract_diffusion_step(study, sizes, question.classes, method=method)
    study = dataclasses.replace(
        study, training=dataclasses.replace(study.training, batch_size=size)
    )
    return abstract_step(study, sizes, method=method, phase=question.phase)


def largest_batch(
    study: Study | Segmentation, answer: Answer, say: Callable[[str], None] = print
) -> str:
    """A sentence on the largest batch that is found to fit.

    Memory is nearly linear in the batch size: two compilations give a guess, others check it, with
    a new line if the compiler refuses.
    """
    step = answer.chips * answer.devices_per_chip * answer.accumulate
    room = ROOM * answer.chip.hbm / answer.devices_per_chip
    again = lambda n: ask(study, dataclasses.replace(answer.question, batch_size=n), say)
    size = lambda one: one.question.batch_size
    fitting = lambda: max((size(one) for one in answers if one.compiled.fits), default=0)
    half = size(answer) // 2 // step * step
    answers = [answer, again(half or 2 * size(answer))]
    for _ in range(TRIES):
        (x0, y0), (x1, y1) = ((size(one), one.compiled.peak) for one in answers[-2:])
        if y0 == y1:
            raise ConfigError("memory does not depend on the batch size here; there is no largest.")
        guess = int(x0 + (room - y0) * (x1 - x0) / (y1 - y0)) // step * step
        guess = min([guess, *(size(one) - step for one in answers if not one.compiled.fits)])
        if guess <= fitting():
            break
        answers.append(again(guess))
        if answers[-1].compiled.fits:
            break
    if not (best := fitting()):
        return "no batch was found that fits; cut the parameters with --fsdp."
    return (
        f"largest batch found to fit: {best} a domain, {best // answer.chips} a chip. Compiled; "
        f"sought where a line through the memory of other sizes reaches {ROOM:.0%} of HBM."
    )
