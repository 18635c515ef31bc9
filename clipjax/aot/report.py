"""What the TPU's compiler answered: lines for a console, and the table of docs/scaling.md."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence

from clipjax.aot.ask import Answer, Question, ask
from clipjax.aot.compiled import Compiled
from clipjax.aot.roofline import ASSUMED
from clipjax.aot.topology import compiler_version
from clipjax.errors import ConfigError
from clipjax.io import check_writable, write_atomically, write_json
from clipjax.study.config import Study
from clipjax.study.workdir import config_text

MARKERS = ("<!-- table: begin -->", "<!-- table: end -->")
HEADER = (
    "| encoder | topology | images a chip | fits | GiB a chip | TFLOP "
    "| compute, memory, network: ms | step, ms | images/s | efficiency |\n"
    "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


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
    """Lines that explain the roofline estimate."""
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


def row(answer: Answer) -> str:
    """The answer as a row under HEADER."""
    asked, found, time = answer.question, answer.compiled, answer.estimate
    name = asked.model + (" (fast)" if asked.fast else "")
    cut = f", fsdp {asked.fsdp}" if asked.fsdp > 1 else ""
    cells = [
        name,
        asked.topology + cut,
        f"{answer.images // answer.chips}",
        "yes" if found.fits else "no",
        f"{found.peak / 2**30:.1f}",
    ]
    if time is None:
        return "| " + " | ".join([*cells, "", "", "", "", ""]) + " |"
    parts = (time.compute, time.memory, time.network)
    cells += [
        f"{found.flops / 1e12:.2f}",
        ", ".join(f"{part * 1e3:.1f}" for part in parts),
        f"{time.step * 1e3:.1f}",
        f"{answer.images / time.step:,.0f}",
        f"{time.efficiency:.1%}",
    ]
    return "| " + " | ".join(cells) + " |"


def write_table(
    study: Study,
    questions: Sequence[Question],
    page: pathlib.Path,
    rows: pathlib.Path,
    say: Callable[[str], None] = print,
) -> None:
    """Answers questions and puts the rows there are between the page's markers, one by one.

    Args:
      study: whose steps are asked about.
      questions: one a row.
      page: Markdown with MARKERS.
      rows: folder where answers are kept; those it has are not asked again.
      say: prints a line.

    Raises:
      ConfigError: the page is missing or has no markers, or a place cannot be written.
    """
    fill(page, "")  # refuses a wrong page before hours of work
    check_writable(page.parent)
    check_writable(rows)
    rows.mkdir(parents=True, exist_ok=True)
    files = {question: rows / f"{key(study, question)}.json" for question in questions}
    for question, file in files.items():
        if not file.exists():
            write_json(file, dataclasses.asdict(ask(study, question, say)))
            say(row(read_answer(json.loads(file.read_text()))))
        there = [read_answer(json.loads(x.read_text())) for x in files.values() if x.exists()]
        fill(page, "\n".join([HEADER, *map(row, there)]))


def key(study: Study, question: Question) -> str:
    """The name of an answer: what it depends on beside the code that builds the step."""
    import jax

    versions = f"{jax.__version__} {compiler_version()}"
    text = f"{config_text(study)}{question}{versions}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{question.model}-{question.topology.replace(':', '-')}-{digest}"


def read_answer(data: dict) -> Answer:
    """Read back an answer that `dataclasses.asdict` and JSON wrote."""
    compiled = dict(data["compiled"])
    compiled["collectives"] = {k: tuple(v) for k, v in compiled["collectives"].items()}
    return Answer(
        **{**data, "question": Question(**data["question"]), "compiled": Compiled(**compiled)}
    )


def fill(page: pathlib.Path, table: str) -> None:
    """Puts a table between the markers of a page; an empty one leaves the page as it is.

    Raises:
      ConfigError: no page, or no markers in it.
    """
    begin, end = MARKERS
    text = page.read_text() if page.is_file() else ""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ConfigError(f"{page} has no lines {begin} and {end}; the table goes between them.")
    if table:
        write_atomically(page, f"{before}{begin}\n\n{table}\n\n{end}{after}")
