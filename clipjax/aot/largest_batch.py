"""The largest batch whose step fits into the memory of the chips."""

import dataclasses
from collections.abc import Callable

from clipjax.aot.ask import Answer, ask
from clipjax.errors import ConfigError
from clipjax.study.config import Study

TRIES = 3  # compilations that check and correct a guess
ROOM = 0.98  # of HBM; the compiler keeps the rest (it gives 15.75 of 16 GiB on v5e)


def largest_batch(study: Study, answer: Answer, say: Callable[[str], None] = print) -> str:
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
    best = fitting()
    if not best:
        return "no batch was found that fits; cut the parameters with --fsdp."
    return (
        f"largest batch found to fit: {best} a domain, {best // answer.chips} a chip. Compiled; "
        f"sought where a line through the memory of other sizes reaches {ROOM:.0%} of HBM."
    )
