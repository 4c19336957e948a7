"""How does a plan become instructions?

Each value of a plan (features/plan.py) gets a place in one memory of float64, where the compiled loop of
features/machine.py works on it, or a box, where a thing of torch's own lies. What is shifted gets a ring of places:
a block that is written today is read where it stands for as long as a shift may ask for it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from features import machine
from features.inputs import leaves_of
from features.panel import COLUMNS, PRINTED, Panel
from features.plan import placeholders
from features.windows import shift
from storage.clock import NS
from storage.contracts import STATUSES

Shape: TypeAlias = Literal["full", "row", "flat"]
"""(S, T), (1, T) or (T,). On the machine every value is full: a row is written out once for each instrument."""

OPERATIONS: Final[dict[Any, int]] = {
    operator.add: machine.ADD, torch.add: machine.ADD,
    operator.sub: machine.SUB, torch.sub: machine.SUB,
    operator.mul: machine.MUL, torch.mul: machine.MUL, operator.and_: machine.MUL,
    operator.truediv: machine.DIV, torch.div: machine.DIV,
    torch.where: machine.WHERE, torch.isnan: machine.IS_NAN,
    operator.eq: machine.EQ, operator.ne: machine.NE, operator.ge: machine.GE, operator.gt: machine.GT,
    operator.le: machine.LE, operator.lt: machine.LT,
    operator.or_: machine.OR, operator.invert: machine.NOT, operator.neg: machine.NEG,
    torch.abs: machine.ABS, torch.maximum: machine.MAX, torch.minimum: machine.MIN,
}  # fmt: skip
_LOGICAL: Final = (operator.and_, operator.or_, operator.invert)
_EXACT: Final = (torch.float64, torch.bool, torch.int32, torch.uint8)
"""What float64 holds exactly."""


DRAWN_INSTRUMENTS: Final = 4


@dataclass(frozen=True, slots=True)
class Call:
    """One operation through torch; a `Ref` among its arguments stands for a value."""

    function: Callable[..., Any]
    args: Any
    kwargs: Any
    out: Ref


@dataclass(frozen=True, slots=True)
class Ref:
    """A value: where it lies on the machine (`place`), or in which box a thing of torch's own lies."""

    place: int = -1
    box: int = -1
    dtype: torch.dtype | None = None
    shape: Shape = "full"


@dataclass(slots=True)
class Program:
    """A plan as lists of instructions, between which torch is called.

    Args:
        leaves: what it reads, by name.
        inputs: where each leaf goes.
        outputs: where the raw value of each feature lies.
        parts: instructions and calls, in order.
        bases, rings, backs: of each place the first block, how many blocks take turns there, and how many pushes
            ago the one was that it means.
        fills: what stands in each block before the first push; constants stay there.
        boxes: how many things of torch's own there are.
    """

    leaves: tuple[str, ...] = ()
    inputs: list[Ref] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    parts: list[machine.Code | Call] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    rings: list[int] = field(default_factory=list)
    backs: list[int] = field(default_factory=list)
    fills: list[float] = field(default_factory=list)
    boxes: int = 0


def compile_graph(graph: fx.Graph, block_steps: int) -> Program:
    """Return the program of a graph for blocks of so many steps."""
    return _Compiler(graph, block_steps).program


class _Compiler:
    """Turns a graph into a program; each node becomes a place on the machine, or a box."""

    def __init__(self, graph: fx.Graph, block_steps: int) -> None:
        self.program = Program(leaves=placeholders(graph))
        self._steps = block_steps
        self._refs: dict[fx.Node, Ref] = {}
        self._constants: dict[str, int] = {}
        self._histories: dict[tuple[fx.Node, str], tuple[int, int]] = {}
        self._code: list[list[int]] = []
        self._free: list[int] = []
        nodes = list(graph.nodes)
        _note_kinds(graph)
        self._output = nodes[-1]
        self._readers = {node: len(node.users) for node in nodes}
        self._deepest: dict[tuple[fx.Node, str], int] = {}
        for node in nodes:
            if node.target is shift:
                key, bars = _shifted(node)
                self._deepest[key] = max(self._deepest.get(key, 0), bars)
        for node in _scheduled(nodes[:-1]):
            self._take(node)
        self._flush()
        self.program.outputs = [self._refs[node] for node in self._output.args[0]]

    def _take(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._refs[node] = self._new(node)
            self.program.inputs.append(self._refs[node])
        elif node.target is shift and _is_simple(node):
            self._refs[node] = self._past(node)
        elif node.op == "call_method" and _is_simple(node):  # a change of type, of what float64 holds anyway
            (source,) = node.all_input_nodes
            self._refs[node] = self._new(node)
            self._code.append([machine.COPY, self._refs[node].place, self._refs[source].place, 0, 0])
        elif _is_simple(node):
            operands = [self._operand(argument) for argument in node.args]
            self._refs[node] = self._new(node)
            self._code.append(
                [OPERATIONS[node.target], self._refs[node].place, *operands, *[0] * (3 - len(operands))]
            )
        else:
            self._call(node)
        self._remember(node)
        for source in node.all_input_nodes:
            self._readers[source] -= 1
            if not self._readers[source]:
                self._let_go(source)

    def _call(self, node: fx.Node) -> None:
        self._flush()
        args, kwargs = (_with(side, self._refs) for side in (node.args, node.kwargs))
        function = _function(node)
        self._refs[node] = self._new(node)
        self.program.parts.append(Call(function, args, kwargs, self._refs[node]))

    def _past(self, node: fx.Node) -> Ref:
        """Return the place of a shift: a block of its history, or one put together from two."""
        key, bars = _shifted(node)
        base, count = self._histories[key]
        whole, rest = divmod(bars, self._steps)
        later = self._place(base, count, whole)
        if not rest:
            return Ref(later, dtype=node.meta["dtype"], shape=node.meta["shape"])
        ref = self._new(node)
        self._code.append([machine.SHIFT, ref.place, later, self._place(base, count, whole + 1), rest])
        return ref

    def _remember(self, node: fx.Node) -> None:
        """Keep a history of a node that is shifted, one for each thing that may stand before its first block."""
        for key in self._deepest:
            if key[0] is node and key not in self._histories:
                place = self._begin_history(key)
                self._code.append([machine.COPY, place, self._refs[node].place, 0, 0])

    def _begin_history(self, key: tuple[fx.Node, str]) -> int:
        """Return the place of the newest block of a history."""
        count = -(-self._deepest[key] // self._steps) + 1
        base = len(self.program.fills)
        self.program.fills += [float(key[1])] * count
        self._histories[key] = base, count
        return self._place(base, count, 0)

    def _new(self, node: fx.Node) -> Ref:
        if "shape" not in node.meta or node.meta["dtype"] not in _EXACT:
            self.program.boxes += 1
            return Ref(box=self.program.boxes - 1)
        if key := next((key for key in self._deepest if key[0] is node), None):
            # It is written where it is remembered.
            return Ref(self._begin_history(key), dtype=node.meta["dtype"], shape=node.meta["shape"])
        if not self._free:
            self.program.fills.append(0.0)
            self._free.append(self._place(len(self.program.fills) - 1, 1, 0))
        return Ref(self._free.pop(), dtype=node.meta["dtype"], shape=node.meta["shape"])

    def _let_go(self, node: fx.Node) -> None:
        ref = self._refs[node]
        if ref.place >= 0 and self.program.rings[ref.place] == 1:
            self._free.append(ref.place)

    def _operand(self, argument: Any) -> int:
        if isinstance(argument, fx.Node):
            return self._refs[argument].place
        if (told := repr(float(argument))) not in self._constants:
            self.program.fills.append(float(argument))
            self._constants[told] = self._place(len(self.program.fills) - 1, 1, 0)
        return self._constants[told]

    def _place(self, base: int, ring: int, back: int) -> int:
        self.program.bases.append(base)
        self.program.rings.append(ring)
        self.program.backs.append(back)
        return len(self.program.bases) - 1

    def _flush(self) -> None:
        if self._code:
            self.program.parts.append(np.array(self._code, dtype=np.int64))
            self._code = []


def _shifted(node: fx.Node) -> tuple[tuple[fx.Node, str], int]:
    source, bars = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(bars, int)
    return (source, repr(node.kwargs["fill"])), bars


def _function(node: fx.Node) -> Any:
    return getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target


def _with(side: Any, values: Mapping[fx.Node, Any]) -> Any:
    """Return arguments of a node with values in place of nodes."""
    return map_aggregate(side, lambda item: values[item] if isinstance(item, fx.Node) else item)


def _note_kinds(graph: fx.Graph) -> None:
    """Note on each node what type and shape its value has, as seen on a small panel."""
    leaves = leaves_of(drawn_panel(7))
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            value: Any = leaves[node.meta["leaf"]]
        elif node.op == "output":
            break
        else:
            args, kwargs = (
                fx.map_arg(side, lambda source: values[source]) for side in (node.args, node.kwargs)
            )
            function = getattr(Tensor, node.target) if node.op == "call_method" else node.target
            value = function(*args, **kwargs)
        values[node] = value
        shapes: dict[Any, Shape] = {(DRAWN_INSTRUMENTS, 7): "full", (1, 7): "row", (7,): "flat"}
        if isinstance(value, Tensor) and tuple(value.shape) in shapes:
            node.meta |= {"dtype": value.dtype, "shape": shapes[tuple(value.shape)]}


def _is_simple(node: fx.Node) -> bool:
    """Say whether the machine computes a node: it knows the operation, and float64 holds all that takes part."""
    sources = node.all_input_nodes
    if not sources or any(item.meta.get("dtype") not in _EXACT for item in (node, *sources)):
        return False
    if node.target is shift:
        return True
    if node.op == "call_method":
        return node.target == "to" and node.meta["dtype"] == node.args[1] and node.args[1] != torch.uint8 and (
            torch.float64 not in [item.meta["dtype"] for item in sources]
        )  # fmt: skip
    if node.target in _LOGICAL and node.meta["dtype"] != torch.bool:
        return False
    is_plain = all(isinstance(item, fx.Node | bool | int | float) for item in node.args)
    return node.target in OPERATIONS and is_plain and not node.kwargs


def _scheduled(nodes: list[fx.Node]) -> list[fx.Node]:
    """Return the nodes in an order in which as few calls as can be interrupt the machine."""
    waiting, done, order = nodes, set[fx.Node](), list[fx.Node]()
    for is_turn in _turns():
        if not waiting:
            return order
        left = []
        for node in waiting:
            is_machine = node.op == "placeholder" or _is_simple(node)
            if is_machine == is_turn and done.issuperset(node.all_input_nodes):
                done.add(node)
                order.append(node)
            else:
                left.append(node)
        waiting = left
    raise AssertionError


def _turns() -> Iterator[bool]:
    while True:
        yield True
        yield False


def drawn_panel(steps: int) -> Panel:
    """Return a panel of noise: most bars printed, some quiet, some missing."""
    random = torch.Generator().manual_seed(0)
    shape = (DRAWN_INSTRUMENTS, steps)
    values = {name: torch.exp(torch.randn(shape, generator=random, dtype=torch.float64)) for name in COLUMNS}
    drawn = torch.rand(shape, generator=random)
    status = torch.full(shape, PRINTED, dtype=torch.uint8)
    status[drawn < 0.2] = STATUSES.index("quiet")
    status[drawn < 0.02] = STATUSES.index("blind")
    clock = 60 * NS * np.arange(steps, dtype=np.int64)
    names = tuple(str(row) for row in range(DRAWN_INSTRUMENTS))
    return Panel(names, 60 * NS, clock, values, status)
