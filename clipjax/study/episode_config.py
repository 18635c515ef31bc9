"""The part of a config that says what few-shot episodes are of."""

import dataclasses

from clipjax.study.fields import field

HELD_OUT = 0.4  # of the classes, for test episodes


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Few-shot episodes instead of batches (`clipjax.data.loading.sampler.Episodes`)."""

    way: int = field(5, "classes of an episode", low=1)
    shot: int = field(1, "images of each class to learn from", low=1)
    query: int = field(5, "others of each class to be judged on", low=1)
    count: int = field(20, "episodes of an epoch", low=1)
    tasks: int = field(1, "episodes of a step, which divide count", low=1)
    held_out: int = field(
        -1,
        "classes never trained on, of which test episodes are; -1: two in five, if there are test "
        "episodes; 0: none, these are then of classes that training saw, and are called so",
        low=-1,
    )
    held_out_seed: int = field(0, "which classes are held out", low=0)
    test: int = field(
        600, "episodes that judge the method after training, 600 or more as usual; 0: none", low=0
    )
    test_way: int = field(0, "classes of a test episode; 0: as way", low=0)

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.count % self.tasks:
            return (
                f"count={self.count} cannot be dealt out to tasks={self.tasks}; choose a divisor."
            )
        if self.held_out_seed and not (self.held_out > 0 or (self.held_out and self.test)):
            none = "which is 0" if not self.held_out else "and none are without test episodes"
            return f"held_out_seed={self.held_out_seed} is of held_out, {none}; leave it out."
        if self.test_way and not self.test:
            return f"test_way={self.test_way} is of test episodes, and test is 0; leave it out."
        return ""

    def settled(self, classes: int, judged: bool) -> "Episodes":
        """Return these with the default of `held_out` as a number, of so many classes.

        Without test episodes, where the method is not `judged` by any, none is held out.

        >>> [Episodes(test_way=n).settled(28, True).held_out for n in (0, 14)]
        [11, 14]
        """
        test, out = self.test if judged else 0, self.held_out
        if out < 0:
            share = min(round(HELD_OUT * classes), classes - self.way)
            out = max(self.test_way or self.way, share) if test else 0
        return dataclasses.replace(self, held_out=out, test=test)
