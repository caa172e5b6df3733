"""The operations that a run of a compiled program executes, read from XLA's text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

UNKNOWN_TRIPS = 3  # taken for a loop whose number of iterations depends on the data
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
_BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$")
_BRANCHES = re.compile(r"(?:true_computation|false_computation)=%?([\w.-]+)")


class Operation(NamedTuple):
    """An operation of a compiled program that is executed on a device."""

    kind: str  # opcode of XLA; of a collective without "-start". copy-start: to on-chip memory
    shape: str  # XLA's type of its result, of the first array of several
    num_bytes: int  # of its result
    num_read: int  # bytes of its whole operands, of which it may read a part
    times: int  # executions in one run of the program
    cycles: int  # estimate of XLA for a TPU, per execution; 0 on other platforms
    source: str  # path of the operation in the JAX program


class _Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    rest: str  # operands and attributes


def operations(text: str) -> Iterator[Operation]:
    """Yield the operations of an optimized HLO module; loops count with their iterations.

    Operations within a fusion are part of the fusion, except for collectives. Of the branches of a
    conditional the longest counts.
    """
    computations, entry = _computations(text)
    yield from _executed(computations, entry, 1)


def array_bytes(shape: str) -> list[int]:
    """Return the bytes of each array in an XLA type, which may be a tuple."""
    sizes = []
    for dtype, dims in _ARRAY.findall(shape):
        digits = re.fullmatch(r"[a-z]+(\d+)", dtype)
        bits = _BITS.get(dtype) or (int(digits[1]) if digits else 0)
        sizes.append(math.prod(int(n) for n in dims.split(",") if n) * bits // 8)
    return sizes


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Return the instructions of each computation, and the name of the entry computation."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None and (head := _HEAD.match(line)):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(_Instruction(*match.groups()))
    return computations, entry


def _executed(
    computations: dict[str, list[_Instruction]], name: str, times: int, *, fused: bool = False
) -> Iterator[Operation]:
    instructions = computations.get(name, [])
    sizes = {x.name: sum(array_bytes(x.shape)) for x in instructions}
    for instruction in instructions:
        if instruction.opcode == "while":
            condition, body = (_called(instruction, x)[0] for x in ("condition", "body"))
            trips = times * _num_trips(instruction, computations.get(condition, []))
            yield from _executed(computations, condition, trips)
            yield from _executed(computations, body, trips)
        elif instruction.opcode == "conditional":
            branches = _branches(instruction)
            longest = max(branches, key=lambda name: len(computations.get(name, [])))
            yield from _executed(computations, longest, times)
        elif instruction.opcode in ("call", "async-start"):
            for part in _called(instruction, "to_apply|calls"):
                yield from _executed(computations, part, times)
        elif _kind(instruction) in COLLECTIVES or not fused:
            yield _operation(instruction, times, sizes)
        if instruction.opcode == "fusion":
            for part in _called(instruction, "calls"):
                yield from _executed(computations, part, times, fused=True)


def _num_trips(loop: _Instruction, condition: list[_Instruction]) -> int:
    """Return the iterations of a loop: of XLA's annotation, or the bound of its counter."""
    if annotated := re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.rest):
        return int(annotated[1])
    integers = {
        x.name: int(x.rest.split(")")[0])
        for x in condition
        if x.opcode == "constant" and x.shape.startswith("s32[]")
    }
    compared = [x for x in condition if x.opcode == "compare"]
    operands = re.findall(r"%([\w.-]+)", compared[-1].rest.split(")")[0]) if compared else []
    bounds = [integers[name] for name in operands if name in integers]
    return bounds[0] if bounds else UNKNOWN_TRIPS


def _called(instruction: _Instruction, attribute: str) -> list[str]:
    return re.findall(rf"\b(?:{attribute})=%?([\w.-]+)", instruction.rest)


def _branches(instruction: _Instruction) -> list[str]:
    if listed := re.search(r"branch_computations=\{([^}]*)\}", instruction.rest):
        return re.findall(r"[\w.-]+", listed[1])
    return _BRANCHES.findall(instruction.rest)


def _kind(instruction: _Instruction) -> str:
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else instruction.opcode


def _operation(instruction: _Instruction, times: int, all_sizes: dict[str, int]) -> Operation:
    operands = re.findall(r"%([\w.-]+)", instruction.rest.split("), ")[0])
    sizes = array_bytes(instruction.shape)
    if instruction.opcode == "all-gather-start":  # a pair of operands and results
        sizes = sizes[len(sizes) // 2 :]
    elif instruction.opcode in ("collective-permute-start", "copy-start"):  # and of contexts
        sizes = [max(sizes, default=0)]
    cycles = re.search(r'"estimated_cycles":"?(\d+)', instruction.rest)
    source = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Operation(
        _kind(instruction),
        re.sub(r"\{[^}]*\}", "", instruction.shape).lstrip("(").split(", ")[0],
        sum(sizes),
        sum(all_sizes.get(name, 0) for name in operands),
        times,
        int(cycles[1]) if cycles else 0,
        source[1] if source else "",
    )
