"""Compiler from traced graphs to programs.

A program is a graph (features/engine/tracing.py) as lists of instructions for the compiled loop
(features/engine/interpreter.py), with torch calls in between. Its values are numbered and have no addresses:
features/engine/block_executor.py lays them out for blocks of many bars, features/engine/stream_executor.py for single
bars. A shift is not an instruction but an operand that is read some bars back.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import fx
from torch.fx.node import map_aggregate

from features.engine import interpreter as machine
from features.engine.operators import (
    OPERATIONS,
    Kind,
    Shape,
    classify_nodes,
    function_of,
    is_zeros,
    schedule_nodes,
)
from features.engine.tracing import placeholders
from features.ops.rolling import shift
from storage.errors import ContractError

History: TypeAlias = tuple[int, str]
"""Required history: a value, and its content before the first bar."""


class Operand(NamedTuple):
    """A value as an instruction reads it: `bars` back, and `before` where that lies before the first bar."""

    value: int
    bars: int = 0
    before: str = "nan"

    @property
    def history(self) -> History:
        """The history that it requires."""
        return self.value, self.before


class Instruction(NamedTuple):
    """One operation of the interpreter on whole blocks."""

    op: int
    out: int
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value among the arguments of a call, with its tensor's type and shape in torch."""

    value: int
    dtype: torch.dtype | None = None
    shape: Shape = "full"


@dataclass(frozen=True, slots=True)
class Call:
    """One torch operation, either `pointwise` or `across` instruments."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    out: int
    kind: Kind

    @property
    def reads(self) -> list[int]:
        """The values among its arguments."""
        found: list[int] = []
        map_aggregate(
            (self.args, self.kwargs), lambda item: found.append(item.value) if isinstance(item, Ref) else None
        )
        return found


Part: TypeAlias = list[Instruction] | Call


@dataclass(frozen=True, slots=True)
class Value:
    """Description of a numbered value.

    Args:
        is_box: it is an object of torch that the float64 memory cannot hold.
        constant: its value, if it is the same everywhere.
    """

    is_box: bool = False
    constant: float | None = None


@dataclass(slots=True)
class Program:
    """Lists of instructions with torch calls in between.

    Args:
        leaves: names of the leaves that it reads.
        inputs: the value of each leaf.
        outputs: the raw value of each feature.
        parts: instructions and calls, in order.
        values: description of each numbered value.
    """

    leaves: tuple[str, ...] = ()
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def depths(self) -> dict[History, int]:
        """Return the required length of each history, in bars."""
        return depths_of(operand for part in self.parts for operand in operands_of(part))


def depths_of(operands: Iterable[Operand]) -> dict[History, int]:
    """Return the length in bars of each history that these operands require."""
    found: dict[History, int] = {}
    for operand in operands:
        if operand.bars:
            found[operand.history] = max(found.get(operand.history, 0), operand.bars)
    return found


def operands_of(part: Part) -> list[Operand]:
    """Return all operands of a part, in order."""
    if isinstance(part, Call):
        return [Operand(value) for value in part.reads]
    return [operand for instruction in part for operand in instruction.operands]


def compile_graph(graph: fx.Graph) -> Program:
    """Compile a graph.

    Raises:
        ContractError: a feature returns a type that float64 cannot hold, or an unsupported shape.
    """
    return _Compiler(graph).program


class _Compiler:
    """Translates a graph; each node becomes a value, or a value read some bars back."""

    def __init__(self, graph: fx.Graph) -> None:
        self.program = Program(leaves=placeholders(graph))
        self._found: dict[fx.Node, Operand] = {}
        self._constants: dict[str, int] = {}
        self._code: list[Instruction] = []
        classify_nodes(graph)
        *nodes, output = graph.nodes
        for node in schedule_nodes(nodes):
            self._add_node(node)
        self.program.outputs = [self._value_of(node) for node in output.args[0]]
        self._flush()
        _drop_unread(self.program)
        for value in self.program.outputs:
            if self.program.values[value].is_box:
                raise ContractError(
                    "a feature returns a type or a shape that a table cannot hold",
                    hint="return float64 of shape (S, T), (1, T) or (T,)",
                )

    def _add_node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._found[node] = Operand(self._new(node))
            self.program.inputs.append(self._found[node].value)
        elif is_zeros(node):
            self._found[node] = self._operand(0.0)
        elif node.meta["kind"] != "machine":
            self._call(node)
        elif node.target is shift:
            source, bars = node.args
            # The fill has the value's own type, such as a bool or an integer.
            fill = torch.tensor(node.kwargs["fill"]).to(node.meta["dtype"])
            self._found[node] = Operand(self._value_of(source), bars, repr(float(fill)))  # type: ignore[arg-type]
        elif node.op == "call_method":  # a conversion between types that float64 represents exactly
            self._found[node] = self._found[node.all_input_nodes[0]]
        elif node.target is operator.truediv and not isinstance(node.args[0], fx.Node):
            # torch divides a Python number by a tensor as the number times the reciprocal, which is rounded twice.
            number, divisor = (self._operand(argument) for argument in node.args)
            self._emit(node, machine.DIV, (self._operand(1.0), divisor))
            self._emit(node, machine.MUL, (self._found[node], number))
        else:
            op, arguments = _fused(node)
            self._emit(node, op, tuple(self._operand(argument) for argument in arguments))

    def _call(self, node: fx.Node) -> None:
        sources = {
            source: Ref(self._value_of(source), source.meta.get("dtype"), source.meta.get("shape", "full"))
            for source in node.all_input_nodes
        }
        self._flush()
        args, kwargs = (_substitute(side, sources) for side in (node.args, node.kwargs))
        self._found[node] = Operand(self._new(node))
        call = Call(function_of(node), args, kwargs, self._found[node].value, node.meta["kind"])
        self.program.parts.append(call)

    def _emit(self, node: fx.Node, op: int, operands: tuple[Operand, ...]) -> None:
        self._found[node] = Operand(self._new(node))
        self._code.append(Instruction(op, self._found[node].value, operands))

    def _operand(self, argument: Any) -> Operand:
        if isinstance(argument, fx.Node):
            return self._found[argument]
        key = repr(float(argument))
        if key not in self._constants:
            self._constants[key] = len(self.program.values)
            self.program.values.append(Value(constant=float(argument)))
        return Operand(self._constants[key])

    def _value_of(self, node: Any) -> int:
        """Return the value of a node; a constant or an operand read some bars back is copied to a value of its own."""
        found = self._found[node]
        if found.bars or self.program.values[found.value].constant is not None:
            self._emit(node, machine.COPY, (found,))
        return self._found[node].value

    def _new(self, node: fx.Node) -> int:
        self.program.values.append(Value(is_box="dtype" not in node.meta))
        return len(self.program.values) - 1

    def _flush(self) -> None:
        if self._code:
            self.program.parts.append(self._code)
            self._code = []


def _substitute(side: Any, values: Mapping[Any, Any]) -> Any:
    """Return arguments of a node with nodes replaced by values."""
    return map_aggregate(side, lambda item: values[item] if isinstance(item, fx.Node) else item)


def _fused(node: fx.Node) -> tuple[int, Sequence[Any]]:
    """Return the operation of a node and its arguments, fusing some common sequences into one operation.

    Nodes that are no longer read are dropped later.
    """
    first, *others = node.args
    if node.target is operator.invert and _is(first, torch.isnan):
        return machine.IS_NUMBER, first.args  # type: ignore[union-attr]
    if node.target is torch.where and _is(first, operator.ge) and _is(others[0], operator.truediv):
        # A mean of the present values, where enough are: torch.where(count >= minimum, total / count, nan)
        count, minimum = first.args  # type: ignore[union-attr]
        total, divisor = others[0].args  # type: ignore[union-attr]
        if count is divisor and not _is_number(total) and _is_number(minimum) and _is_nan(others[1]):
            return machine.MEAN, (total, count, minimum)
    return OPERATIONS[node.target], node.args


def _is(argument: Any, target: Any) -> bool:
    return isinstance(argument, fx.Node) and argument.target is target and argument.meta["kind"] == "machine"


def _is_number(argument: Any) -> bool:
    return isinstance(argument, int | float)


def _is_nan(argument: Any) -> bool:
    return isinstance(argument, float) and math.isnan(argument)


def _drop_unread(program: Program) -> None:
    """Remove instructions, calls and leaves whose values are not read."""
    read = set(program.outputs)
    parts: list[Part] = []
    for part in reversed(program.parts):
        if isinstance(part, Call):
            if part.out in read:
                read.update(part.reads)
                parts.append(part)
            continue
        live: list[Instruction] = []
        for instruction in reversed(part):
            if instruction.out in read:
                live.append(instruction)
                read.update(operand.value for operand in instruction.operands)
        if live:
            parts.append(live[::-1])
    program.parts = parts[::-1]
    live_leaves = [at for at, value in enumerate(program.inputs) if value in read]
    program.leaves = tuple(program.leaves[at] for at in live_leaves)
    program.inputs = [program.inputs[at] for at in live_leaves]
