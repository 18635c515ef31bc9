"""What the TPU's compiler answered, as lines for a console."""

from __future__ import annotations

from clipjax.aot.ask import Answer
from clipjax.aot.compiled import Compiled
from clipjax.aot.roofline import ASSUMED


def describe(answer: Answer) -> list[str]:
    """The answer as lines for a console."""
    asked, found, chip = answer.question, answer.compiled, answer.chip
    unit = "chip" if answer.devices_per_chip == 1 else f"core, {answer.devices_per_chip} a chip"
    fitting = "fits" if found.fits else "DOES NOT FIT"
    hbm = chip.hbm / answer.devices_per_chip
    cut = f"cut among {asked.fsdp} devices" if asked.fsdp > 1 else "whole on each"
    lines = [
        f"{answer.phase} of {asked.model} on {asked.topology}: {answer.images} images a step, "
        f"{answer.images / answer.chips:g} a chip; parameters {cut}",
        f"per {unit}, as compiled{' (--fast: upper estimates)' if asked.fast else ''}:",
        f"  peak memory  {gib(found.peak)} of {gib(hbm)}: {fitting}",
    ]
    if not found.fits:
        return lines
    lines += [
        f"  arguments    {gib(found.arguments)} (parameters, optimizer state, batch)",
        f"  temporaries  {gib(found.temporaries)} (activations, gradients)",
        f"  FLOPs        {found.flops / 1e12:.3f} T",
        f"  bytes        {found.bytes_accessed / 1e9:.2f} GB read and written",
        *collective_lines(found),
    ]
    return lines + estimate_lines(answer)


def collective_lines(found: Compiled) -> list[str]:
    """One line for each kind of collective."""
    if not found.collectives:
        return ["  collectives  none"]
    return [
        f"  {kind:12} {count} operations on {size / 1e6:.1f} MB, {sent / 1e6:.1f} MB sent"
        for kind, (count, size, sent) in sorted(found.collectives.items())
    ]


def estimate_lines(answer: Answer) -> list[str]:
    """The roofline in words."""
    time, chip = answer.estimate, answer.chip
    if time is None:
        return [
            f"no step time: accumulate={answer.accumulate} is a loop, of which the compiler counts "
            "one microbatch."
        ]
    return [
        f"ESTIMATE, nothing was run. Peak rates of a {answer.question.topology.partition(':')[0]} "
        f"chip: {chip.flops / 1e12:g} TFLOP/s in bfloat16, {chip.hbm_rate / 1e9:g} GB/s memory, "
        f"{chip.ici_rate / 1e9:g} GB/s sent.",
        f"Assumed: {ASSUMED}.",
        f"  compute {time.compute * 1e3:.2f} ms, memory {time.memory * 1e3:.2f} ms, network "
        f"{time.network * 1e3:.2f} ms",
        f"  step {time.step * 1e3:.2f} ms at best, bound by {time.bound}: "
        f"{answer.images / time.step:,.0f} images/s",
        f"  scaling efficiency {time.efficiency:.1%} of a chip alone",
    ]


def gib(size: float) -> str:
    """Bytes in GiB, as the compiler counts.

    >>> gib(3 * 2**29)
    '1.50 GiB'
    """
    return f"{size / 2**30:.2f} GiB"
