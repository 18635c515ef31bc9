"""The largest batch whose step fits into the memory of the chips."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from clipjax.aot.ask import Answer, ask
from clipjax.errors import ConfigError
from clipjax.study.config import Study

TRIES = 3  # compilations with which a guess is checked and mended
ROOM = 0.98  # of HBM; the compiler keeps the rest (it gives 15.75 of 16 GiB on v5e)


def largest_batch(study: Study, answer: Answer, say: Callable[[str], None] = print) -> str:
    """A sentence on the largest batch that is found to fit.

    Memory is nearly a straight line in the batch size: two compilations give a guess, others check
    it, with a new line where the compiler refuses.
    """
    step = answer.chips * answer.devices_per_chip * answer.accumulate
    room = ROOM * answer.chip.hbm / answer.devices_per_chip
    half = answer.question.batch_size // 2 // step * step
    answers = [answer, _again(study, answer, half or 2 * answer.question.batch_size, say)]
    for _ in range(TRIES):
        guess = line_reaches([_point(x) for x in answers[-2:]], room) // step * step
        refused = [_point(x)[0] for x in answers if not x.compiled.fits]
        guess = min([guess, *(size - step for size in refused)])
        if guess <= _best(answers):
            break
        answers.append(_again(study, answer, guess, say))
        if answers[-1].compiled.fits:
            break
    best = _best(answers)
    if not best:
        return "no batch was found that fits; cut the parameters with --fsdp."
    return (
        f"largest batch found to fit: {best} a domain, {best // answer.chips} a chip. Compiled; "
        f"sought where a line through the memory of other sizes reaches {ROOM:.0%} of HBM."
    )


def _again(study: Study, answer: Answer, size: int, say: Callable[[str], None]) -> Answer:
    return ask(study, dataclasses.replace(answer.question, batch_size=size), say)


def _point(answer: Answer) -> tuple[int, int]:
    return answer.question.batch_size, answer.compiled.peak


def _best(answers: Sequence[Answer]) -> int:
    return max((x.question.batch_size for x in answers if x.compiled.fits), default=0)


def line_reaches(points: Sequence[tuple[int, float]], height: float) -> int:
    """The x at which the line through two points reaches a height, rounded down.

    >>> line_reaches([(64, 3.0), (32, 2.0)], 5.0)
    128
    """
    (x0, y0), (x1, y1) = points
    if y0 == y1:
        raise ConfigError("memory does not depend on the batch size here; there is no largest.")
    return int(x0 + (height - y0) * (x1 - x0) / (y1 - y0))
