"""What to do after a run: the first rule that fits; docs/choosing.md lists them."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

ZERO_SHOT = "zero_shot"
EXPORT = "export --workdir={workdir} --out=adapted"  # by default what the verdict takes
LARGER = "openai/clip-vit-large-patch14"


class Case(NamedTuple):
    """A run whose next step is asked for."""

    results: Mapping[str, Any]
    found: Mapping[str, Any]  # the verdict, but for its next step
    compared: bool  # whether it had methods beside zero-shot
    hints: Mapping[str, Any]  # of its config: "prompts", "model", "texts", ...

    @property
    def margin(self) -> Mapping[str, Any]:
        """The taken method's margin over zero-shot; {} where there is none."""
        return self.found["margins"].get(ZERO_SHOT, {})

    @property
    def adapts(self) -> bool:
        """Whether a trained method is to be taken."""
        return self.found["method"] not in (None, ZERO_SHOT)

    @property
    def collapsed(self) -> str | None:
        """The first adversarial method that answers with few classes."""
        refused = (self.results.get("choice") or {}).get("refused", {})
        few = {name for name, why in refused.items() if "effective classes" in why}
        for warning in self.found["warnings"]:
            few |= set(warning["methods"]) if warning["kind"] == "one_class" else set()
        return next((name for name in self.hints.get("lam_max", {}) if name in few), None)


class Step(NamedTuple):
    """A rule: when it fits, what to do, an option for the run's command, or another command."""

    rule: str
    fits: Callable[[Case], Any]
    words: Callable[[Case], str]
    add: Callable[[Case], str] = lambda case: ""
    command: Callable[[Case], str] = lambda case: ""


def _adversary(case: Case) -> str:
    name = case.collapsed
    return f"--config.methods.{name}.lam_max={case.hints['lam_max'][name] / 3:.2g}"


# The first that fits is taken.
STEPS = (
    Step(
        "zero_shot_only",
        lambda case: not case.compared,
        lambda case: f"see whether adaptation to {case.found['target']} helps",
        lambda case: "--config=dann",
    ),
    Step(
        "not_chosen",
        lambda case: case.found["method"] is None,
        lambda case: "choose without the target's labels",
        lambda case: "--config.selection=label_free",
    ),
    Step(
        "unlabelled",
        lambda case: not case.found["n"],
        lambda case: (
            "label about a hundred images of {target} as its test part, and run again: no "
            "other evidence says how good {method} is".format(**case.found)
        ),
    ),
    Step(
        "worse",
        lambda case: case.adapts and case.margin.get("clear") and case.margin["points"] < 0,
        lambda case: "stay with zero-shot, as the test labels say, and try what is anchored to it",
        lambda case: "--config=anchored",
    ),
    Step(
        "seeds_differ",
        lambda case: case.margin and not case.margin["clear"] and _decided(case.margin),
        lambda case: "repeat with more seeds: these disagree on whether it is above zero-shot",
        lambda case: "--config.seeds=(0,1,2,3,4)",
    ),
    Step(
        "within_noise",
        lambda case: case.margin and not case.margin["clear"],
        lambda case: (
            f"label more test images of {case.found['target']} before you rely on it: "
            f"{case.found['n']} tell {_half(case.margin):.1f} points apart"
        ),
    ),
    Step(
        "images_alone",
        lambda case: not case.hints.get("texts", True),
        lambda case: "compare with a CLIP, whose zero-shot is the line to beat",
        lambda case: f"--config.model={LARGER}",
    ),
    Step(
        "deploy",
        lambda case: case.adapts,
        lambda case: f"export {case.found['method']}",
        command=lambda case: _export(case.results.get("command") or ""),
    ),
    Step(
        "collapsed",
        lambda case: case.collapsed,
        lambda case: f"lower lambda: {case.collapsed} answers with few classes",
        _adversary,
    ),
    Step(
        "not_anchored",
        lambda case: "blend" not in case.hints.get("losses", ("blend",)),
        lambda case: "let the blend compete, which stays anchored to zero-shot",
        lambda case: "--config=closed_form",
    ),
    Step(
        "prompts",
        lambda case: case.hints.get("prompts", "ensemble") != "ensemble",
        lambda case: "try better prompts: zero-shot is the best there is here",
        lambda case: "--config.prompts=ensemble",
    ),
    Step(
        "larger_model",
        lambda case: case.hints.get("model") != LARGER,
        lambda case: "try a larger CLIP: zero-shot is the best there is here",
        lambda case: f"--config.model={LARGER}",
    ),
    Step(
        "labels",
        lambda case: True,
        lambda case: f"label images of {case.found['target']}: nothing else helped",
        lambda case: "--config.data.labels=target",
    ),
)


def _decided(margin: Mapping) -> bool:
    """Whether the images alone would tell."""
    return margin["low"] > 0 or margin["high"] < 0


def _half(margin: Mapping) -> float:
    return (margin["high"] - margin["low"]) / 2


def _export(command: str) -> str:
    ours = "python -m experiments." if command.startswith("python -m experiments.") else "clipjax "
    return ours + EXPORT


def again(command: str, add: str) -> str:
    """Return a run's command with another option, in a workdir of its own; "" of no command.

    >>> before = "python -m experiments.main --config=configs/dann.py:root=a --workdir=b"
    >>> again(before, "--config.x=1")
    'python -m experiments.main --config=configs/dann.py:root=a --config.x=1'
    >>> again(before, "--config=uda")
    'python -m experiments.main --config=uda:root=a'
    >>> again("clipjax run dann source=photo x=2", "--config.x=1")
    'clipjax run dann source=photo x=1'
    >>> again("clipjax run dann source=photo", "--config=uda")
    'clipjax run uda source=photo'
    """
    (word,), words = shlex.split(add), shlex.split(command)
    if not words or {"--workdir", "--config"} & set(words):  # their values are words of their own
        return ""
    key, _, value = word.partition("=")
    bare = words[1:2] == ["run"] and not any(each.startswith("--config") for each in words)
    before = next((each for each in words if each.startswith(f"{key}=")), None)
    if key == "--config":
        if before:
            word += "".join(before.partition(":")[1:])
        elif bare and len(words) > 2 and "=" not in words[2]:
            before, word = words[2], value
        elif bare:
            words, before, word = [*words[:2], "", *words[2:]], "", value
    elif bare:
        key, word = key.removeprefix("--config."), word.removeprefix("--config.")
        before = next((each for each in words if each.startswith(f"{key}=")), None)
    if before is None:
        words.append(word)
    kept = [each for each in words if not each.startswith("--workdir=")]
    return shlex.join([word if each == before else each for each in kept])


def next_step(case: Case) -> dict[str, str]:
    """Return {"rule", "words", "add", "command"}: what to do, without a full stop.

    "add" is an option for the run's own command, "command" what to type, in which {workdir} stands
    for the run's folder; "" where the run's command is not known, as of a run from Python.
    """
    step = next(step for step in STEPS if step.fits(case))
    add, command = step.add(case), step.command(case)
    command = command or (add and again(case.results.get("command") or "", add))
    return {"rule": step.rule, "words": step.words(case), "add": add, "command": command}


def told(step: Mapping[str, str], workdir: Any = None, quote: str = "") -> str:
    """Say a next step with what to type between `quote`s, in one sentence without a full stop.

    >>> told({"words": "export blend", "add": "", "command": "export {workdir}"}, "runs/a")
    'export blend: export runs/a'
    >>> told({"words": "try better prompts", "add": "--config.prompts=ensemble", "command": ""})
    'try better prompts, by the same command with --config.prompts=ensemble'
    """
    words, typed = parts(step, workdir, quote)
    return f"{words}: {quote}{typed}{quote}" if typed else words


def parts(step: Mapping[str, str], workdir: Any = None, quote: str = "") -> tuple[str, str]:
    """Return the words of a next step and the command to type; "" where it is not known."""
    typed = step["command"].replace("{workdir}", shlex.quote(str(workdir or "WORKDIR")))
    if typed or not step["add"]:
        return step["words"], typed
    add = f"{quote}{shlex.quote(step['add'])}{quote}"
    return f"{step['words']}, by the same command with {add}", ""
