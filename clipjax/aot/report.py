"""The compiler's answers as lines for a console, and as the table of docs/scaling.md."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence

import jax

from clipjax.aot.ask import Answer, Question, ask
from clipjax.aot.compiled import Compiled
from clipjax.aot.topology import compiler_version
from clipjax.errors import ConfigError
from clipjax.io import check_writable, write_atomically, write_json
from clipjax.study.config import Study
from clipjax.study.segmentation_config import Segmentation
from clipjax.study.workdir import config_text

HEADER = (
    "| encoder | topology | images a chip | fits | GiB a chip | TFLOP "
    "| compute, memory, network: ms | step, ms | images/s | efficiency |\n"
    "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def describe(answer: Answer) -> list[str]:
    """An answer as lines for a console."""
    asked, found, each = answer.question, answer.compiled, answer.devices_per_chip
    gib = lambda size: f"{size / 2**30:.2f} GiB"
    cut = f"cut among {asked.fsdp} devices" if asked.fsdp > 1 else "whole on each"
    lines = [
        f"{answer.phase} of {asked.model} on {asked.topology}: {answer.images} images a step, "
        f"{answer.images / answer.chips:g} a chip; parameters {cut}",
        f"per {'chip' if each == 1 else f'core, {each} a chip'}, as compiled"
        f"{' (--fast: upper estimates)' if asked.fast else ''}:",
        f"  peak memory  {gib(found.peak)} of {gib(answer.chip.hbm / each)}: "
        f"{'fits' if found.fits else 'DOES NOT FIT'}",
    ]
    if not found.fits:
        return lines
    collectives = [
        f"  {kind:12} {count} operations on {size / 1e6:.1f} MB, {sent / 1e6:.1f} MB sent"
        for kind, (count, size, sent) in sorted(found.collectives.items())
    ]
    return [
        *lines,
        f"  arguments    {gib(found.arguments)} (parameters, optimizer state, batch)",
        f"  temporaries  {gib(found.temporaries)} (activations, gradients)",
        f"  FLOPs        {found.flops / 1e12:.3f} T",
        f"  bytes        {found.bytes_accessed / 1e9:.2f} GB read and written",
        *(collectives or ["  collectives  none"]),
        *estimate_lines(answer),
    ]


def estimate_lines(answer: Answer) -> list[str]:
    """The roofline estimate as lines."""
    time, chip = answer.estimate, answer.chip
    if time is None:
        loop = f"accumulate={answer.accumulate} is a loop, of which the compiler counts one trip"
        return [f"no step time: {loop}."]
    compute, memory, network = (f"{1e3 * part:.2f} ms" for part in time)
    return [
        f"ESTIMATE, nothing was run. Peak rates of a {answer.question.topology.partition(':')[0]} "
        f"chip: {chip.flops / 1e12:g} TFLOP/s in bfloat16, {chip.hbm_rate / 1e9:g} GB/s memory, "
        f"{chip.ici_rate / 1e9:g} GB/s sent.",
        "Assumed: every FLOP at the chip's bfloat16 peak, every byte at its full memory bandwidth, "
        "and after them, not meanwhile, the collectives as rings over all of the chip's links.",
        f"  compute {compute}, memory {memory}, network {network}",
        f"  step {time.step * 1e3:.2f} ms at best, bound by {time.bound}: "
        f"{answer.images / time.step:,.0f} images/s",
        f"  scaling efficiency {time.efficiency:.1%} of a chip alone",
    ]


def row(answer: Answer) -> str:
    """An answer as a row under HEADER."""
    asked, found, time = answer.question, answer.compiled, answer.estimate
    what = ", ".join(filter(None, (asked.model, answer.phase.partition(", ")[2])))
    cells = [
        what + (" (fast)" if asked.fast else ""),
        asked.topology + (f", fsdp {asked.fsdp}" if asked.fsdp > 1 else ""),
        f"{answer.images // answer.chips}",
        "yes" if found.fits else "no",
        f"{found.peak / 2**30:.1f}",
    ]
    estimated = time and [
        f"{found.flops / 1e12:.2f}",
        ", ".join(f"{part * 1e3:.1f}" for part in time),
        f"{time.step * 1e3:.1f}",
        f"{answer.images / time.step:,.0f}",
        f"{time.efficiency:.1%}",
    ]
    return "| " + " | ".join(cells + (estimated or [""] * 5)) + " |"


def write_table(
    study: Study | Segmentation,
    questions: Sequence[Question],
    page: pathlib.Path,
    rows: pathlib.Path,
    say: Callable[[str], None] = print,
) -> None:
    """Answer questions and put a row for each into the table of a Markdown page (`fill`).

    Studies have the page's table, segmentations that called "diffusion".

    Answers are kept in the folder `rows` and not asked again. ConfigError: the page is missing or
    has no markers, or a place cannot be written.
    """
    name = "diffusion" if isinstance(study, Segmentation) else "table"
    fill(page, "", name)  # refuses a wrong page before hours of work
    check_writable(page.parent)
    check_writable(rows)
    rows.mkdir(parents=True, exist_ok=True)
    files = {question: rows / f"{key(study, question)}.json" for question in questions}
    for question, file in files.items():
        if not file.exists():
            answer = ask(study, question, say)
            write_json(file, dataclasses.asdict(answer))
            say(row(answer))
        there = [read_answer(json.loads(x.read_text())) for x in files.values() if x.exists()]
        fill(page, "\n".join([HEADER, *map(row, there)]), name)


def key(study: Study | Segmentation, question: Question) -> str:
    """A file name for an answer, by all that it depends on except our code."""
    text = f"{config_text(study)}{question}{jax.__version__} {compiler_version()}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{question.model}-{question.topology.replace(':', '-')}-{digest}"


def read_answer(data: dict) -> Answer:
    """Undo `dataclasses.asdict` and JSON."""
    compiled = Compiled(**data["compiled"])
    tuples = {kind: tuple(numbers) for kind, numbers in compiled.collectives.items()}
    compiled = dataclasses.replace(compiled, collectives=tuples)
    return Answer(**data | {"question": Question(**data["question"]), "compiled": compiled})


def fill(page: pathlib.Path, table: str, name: str = "table") -> None:
    """Put a table, unless empty, between the markers of a page; ConfigError without markers.

    These are `<!-- NAME: begin -->` and the same with end.
    """
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    text = page.read_text() if page.is_file() else ""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ConfigError(f"{page} has no lines {begin} and {end}; the table goes between them.")
    if table:
        write_atomically(page, f"{before}{begin}\n\n{table}\n\n{end}{after}")
