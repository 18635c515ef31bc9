"""The collectives of a compiled program, read from its optimised HLO text."""

import math
import re
from typing import NamedTuple

KINDS = (
    "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|ragged-all-to-all|"
    "collective-broadcast"
)
_BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0}  # others end with their bits

# `name = type kind(operands), attributes`; `-done` halves repeat what `-start` said.
_LINE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) "
    rf"(?P<kind>{KINDS})(?P<start>-start)?\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation of a program."""

    kind: str  # of KINDS
    bytes: int  # of the whole arrays that are reduced, gathered or exchanged, on one device
    group: int  # devices that take part together

    @property
    def sent(self) -> float:
        """Bytes that each device sends at least, by ring algorithms.

        >>> Collective("all-reduce", 800, 4).sent, Collective("all-gather", 800, 4).sent
        (1200.0, 600.0)
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        once = self.bytes * (self.group - 1) / self.group
        return 2 * once if self.kind == "all-reduce" else once


def collectives(text: str, devices: int) -> list[Collective]:
    """List every collective of an HLO module once, those in the body of a loop too.

    The TPU compiler puts the same operation (by its channel) into several fusions. An `all-reduce`
    in a computation named all-reduce-scatter is the TPU's reduce-scatter.
    """
    found, computation = {}, ""
    for number, line in enumerate(text.splitlines()):
        if header := _COMPUTATION.match(line):
            computation = header["name"]
        if match := _LINE.match(line):
            channel = re.search(r"channel_id=(\d+)", match["rest"])
            key = match["kind"], channel[1] if channel else number
            scattered = computation.startswith("all-reduce-scatter")
            found.setdefault(key, _read(match, scattered, devices))
    return list(found.values())


def totals(found: list[Collective]) -> dict[str, tuple[int, int, float]]:
    """Kind -> (operations, bytes of the arrays, bytes that a device sends)."""
    sums: dict[str, tuple[int, int, float]] = {}
    for one in found:
        count, size, sent = sums.get(one.kind, (0, 0, 0.0))
        sums[one.kind] = (count + 1, size + one.bytes, sent + one.sent)
    return sums


def _read(match: re.Match, scattered: bool, devices: int) -> Collective:
    kind, group = match["kind"], _group_size(match["rest"]) or devices
    arrays = _ARRAY.findall(match["type"])
    if match["start"] and kind != "all-reduce":  # operands and results; a permute adds two numbers
        arrays = [array for array in arrays if array != ("u32", "")]
        arrays = arrays[len(arrays) // 2 :]
    size = 0
    for dtype, shape in arrays:
        bits = _BITS[dtype] if dtype in _BITS else int(re.search(r"\d+", dtype)[0])
        size += math.prod(map(int, filter(None, shape.split(",")))) * bits // 8
    if kind == "reduce-scatter":
        size *= group  # the type is that of a part
    return Collective("reduce-scatter" if scattered else kind, size, group)


def _group_size(rest: str) -> int:
    """Devices per group, from any of XLA's ways to write groups; 0 for all devices."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(match[2])
    if match := re.search(r"replica_groups=mesh\[(.*?)\](.*?)\{((?:'\w+',?)+)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[3]))
    return 0
