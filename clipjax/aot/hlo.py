"""Collectives of a compiled program, read from its optimised HLO text: kind, count and bytes."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "collective-broadcast",
)
_BITS = {"pred": 8, "c64": 64, "c128": 128}  # the names of all others end with their bits

# `name = type kind(operands), attributes`; `-done` halves repeat what `-start` said.
_LINE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) "
    rf"(?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation of a program."""

    kind: str  # of KINDS
    bytes: int  # of the whole arrays: what is reduced, gathered or exchanged, seen by one device
    group: int  # devices that take part together

    @property
    def sent(self) -> float:
        """Bytes that each device sends, at least: those of ring algorithms.

        >>> Collective("all-reduce", 800, 4).sent, Collective("all-gather", 800, 4).sent
        (1200.0, 600.0)
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        once = self.bytes * (self.group - 1) / self.group
        return 2 * once if self.kind == "all-reduce" else once


def collectives(text: str, devices: int) -> list[Collective]:
    """Every collective of an HLO module for that many devices, once.

    XLA splits asynchronous ones into `-start` and `-done`; the TPU compiler into fusions that hold
    the same operation, with the same channel, several times. An `all-reduce` inside a computation
    named all-reduce-scatter is the TPU's reduce-scatter. Operations in the body of a loop count
    once, whatever its trips.
    """
    found, seen, computation = [], set(), ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header["name"]
        match = _LINE.match(line)
        if not match:
            continue
        channel = re.search(r"channel_id=(\d+)", match["rest"])
        key = (match["kind"], channel[1]) if channel else (match["kind"], len(found), line)
        if key in seen:
            continue
        seen.add(key)
        found.append(_read(match, computation.startswith("all-reduce-scatter"), devices))
    return found


def totals(found: list[Collective]) -> dict[str, tuple[int, int, float]]:
    """Kind -> (operations, bytes of the arrays, bytes that a device sends)."""
    sums: dict[str, tuple[int, int, float]] = {}
    for one in found:
        count, size, sent = sums.get(one.kind, (0, 0, 0.0))
        sums[one.kind] = (count + 1, size + one.bytes, sent + one.sent)
    return sums


def _read(match: re.Match, scattered: bool, devices: int) -> Collective:
    kind, group = match["kind"], _group_size(match["rest"]) or devices
    arrays = [_array_bytes(*array) for array in _ARRAY.findall(match["type"])]
    size = sum(arrays)
    if match["start"]:
        # (operands, results) but for all-reduce, whose start has the results alone; a permute adds
        # two numbers.
        size = size if kind == "all-reduce" else _results_of_start(match["type"])
    if kind == "reduce-scatter":
        size *= group  # the type is that of a part
    return Collective("reduce-scatter" if scattered else kind, size, group)


def _results_of_start(type_text: str) -> int:
    """Bytes of the second element of `(operands, results, ...)`."""
    parts, depth, current = [], 0, ""
    for letter in type_text.strip()[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += letter
    results = [*parts, current][1]
    return sum(_array_bytes(*array) for array in _ARRAY.findall(results))


def _array_bytes(dtype: str, shape: str) -> int:
    if dtype == "token":
        return 0
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype)[0])
    return math.prod(map(int, filter(None, shape.split(",")))) * bits // 8


def _group_size(rest: str) -> int:
    """Devices a group, from any of the forms in which XLA writes groups; 0 for all devices.

    >>> [_group_size(f"), replica_groups={x}") for x in ("{{0,1},{2,3}}", "[2,4]<=[8]", "{}")]
    [2, 4, 0]
    >>> _group_size("), replica_groups=mesh['a'=4,'b'=2], device_ids=([8]) {'a','b'}, dim={0}")
    8
    """
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(match[2])
    if match := re.search(r"replica_groups=mesh\[(.*?)\](.*?)\{((?:'\w+',?)+)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[3]))
    return 0
