"""SWAD's loss valley against a reference with its code's queues, and online."""

from collections import deque

import numpy as np
import pytest

from clipjax.evaluate import valley
from clipjax.evaluate.valley import Valley, loss_valley


def reference(losses, converge, tolerance, ratio):
    """LossValley of khanrc/swad with queues of (position, loss), each segment taken in once."""
    last, smooth, chosen, limit, dead = (
        deque(maxlen=converge),
        deque(maxlen=tolerance),
        None,
        0,
        False,
    )
    for step, loss in enumerate(losses):
        if dead:
            break
        last.append((step, loss))
        smooth.append((step, loss))
        if chosen is None:
            if len(last) == converge and np.argmin([x for _, x in last]) == 0:
                first = last[0][0]
                limit = np.mean([x for _, x in last]) * (1 + ratio)
                queue = [each for each in smooth if each[0] <= first]
                queue = queue[-(tolerance - converge + 1) :]
                above = [i for i, (_, x) in enumerate(queue) if x > limit]
                chosen = {at for at, _ in queue[above[-1] + 1 if above else 0 :]}
            continue
        if smooth[0][0] < first or len(smooth) < tolerance:
            continue
        if min(x for _, x in smooth) > limit:
            dead = True
        else:
            chosen.add(smooth[0][0])
    if chosen is None:
        return {len(losses) - 1}
    while not dead and smooth and min(x for _, x in smooth) <= limit:
        if (at := smooth.popleft()[0]) >= first:
            chosen.add(at)
    return chosen


@pytest.mark.parametrize("converge, tolerance, ratio", [(3, 6, 0.3), (2, 2, 0.1), (3, 4, 0.05)])
def test_the_valley_is_that_of_the_papers_code(converge, tolerance, ratio):
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(400):
        count = int(rng.integers(1, 30))
        bowl = 1 + 0.02 * (np.arange(count) - rng.integers(0, 20)) ** 2
        losses = (bowl * rng.uniform(0.8, 1.25, count)).tolist()
        options = converge, tolerance, ratio
        found = loss_valley(losses, *options)
        mine = set(range(found.start, found.end + 1))
        assert mine == reference(losses, *options)
        sizes.add((len(mine), found.converged, found.over))
        # What is kept after each validation holds all that the valley turns out to be of.
        for seen in range(1, count + 1):
            kept = loss_valley(losses[:seen], *options).needed(seen, tolerance)
            assert {at for at in mine if at < seen} <= set(kept)
    assert len(sizes) > 10


def test_losses_that_are_missing_make_no_valley():
    assert loss_valley([None, None, None, None]) == Valley(3, 3, False, False)
    assert loss_valley([None, 1.0, 2.0, 2.0, None]).start == 1


def test_it_is_said_which_epochs_are_averaged():
    rule = {"converge": 2, "tolerance": 2, "ratio": 0.5, "began": 4}
    falls = [{"epoch": e, "source_val_loss": x} for e, x in ((6, 3.0), (8, 1.0), (10, 1.2))]
    lost = [entry | {"source_val_loss": -entry["epoch"]} for entry in falls]
    found = [valley.epochs_of(history, rule) for history in (falls, lost)]
    assert found[0] == {"first": 7, "last": 10, "converged": True}
    said = valley.sentences({"valleys": {"m": found}, "seeds": [0, 5]})
    assert said == [
        "average of m (SWAD): of every step of epochs 7 to 10, 9 to 10; no valley with seed 5: its "
        "last segment alone"
    ]
