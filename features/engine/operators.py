"""Classification of graph nodes by what executes them: the compiled loop, one call per tile, or one call per block.

- The *machine* (features/engine/interpreter.py) runs operations whose result is fixed to the last bit by IEEE 754 or
  by definition.
- A *pointwise* call is an element-wise torch function, such as a logarithm, which can run on any tile of a block.
- Everything else may look across instruments, and is called once per block, on all of it.
"""

from __future__ import annotations

import operator
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, fx

from features.engine import interpreter as machine
from features.engine.sample_panel import SAMPLE_INSTRUMENTS, sample_panel
from features.inputs import leaves_of
from features.ops.rolling import shift

Shape: TypeAlias = Literal["full", "row", "flat"]
"""(S, T), (1, T) or (T,). In a program's memory every value is full: a row is repeated for each instrument."""
Kind: TypeAlias = Literal["machine", "pointwise", "across"]

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
POINTWISE: Final = (torch.sqrt, torch.log, torch.log1p, torch.exp, torch.sign, torch.clamp)
"""Element-wise functions with an `out` argument whose bits do not depend on the tile."""
_LOGICAL: Final = (operator.and_, operator.or_, operator.invert)
_EXACT: Final = (torch.float64, torch.bool, torch.int32, torch.uint8)
"""Types that float64 represents exactly; integers here are counts and codes, which do not overflow."""


def classify_nodes(graph: fx.Graph) -> None:
    """Annotate each node with its kind and the type and shape of its value, found by running it on a small panel."""
    leaves = leaves_of(sample_panel(7))
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
            value = function_of(node)(*args, **kwargs)
        values[node] = value
        shapes: dict[Any, Shape] = {(SAMPLE_INSTRUMENTS, 7): "full", (1, 7): "row", (7,): "flat"}
        if isinstance(value, Tensor) and value.dtype in _EXACT and tuple(value.shape) in shapes:
            node.meta |= {"dtype": value.dtype, "shape": shapes[tuple(value.shape)]}
        node.meta["kind"] = _kind_of(node)
        if node.meta["kind"] == "machine":
            node.args = _rounded(node)


def function_of(node: fx.Node) -> Any:
    """Return the function that a node calls."""
    return getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target


def is_zeros(node: fx.Node) -> bool:
    """Return whether a node is a tensor of zeros shaped like another."""
    return node.target is torch.zeros_like and node.meta.get("dtype") == torch.float64


def schedule_nodes(nodes: list[fx.Node]) -> list[fx.Node]:
    """Return the nodes in an order with few calls between instructions, and as few calls across as possible."""
    pending, done, order = nodes, set[fx.Node](), list[fx.Node]()

    def take(kind: Kind) -> bool:
        nonlocal pending
        left = []
        for node in pending:
            if node.meta["kind"] == kind and done.issuperset(node.all_input_nodes):
                done.add(node)
                order.append(node)
            else:
                left.append(node)
        has_taken, pending = len(left) < len(pending), left
        return has_taken

    while pending:
        while take("machine") | take("pointwise"):
            pass
        take("across")
    return order


def _kind_of(node: fx.Node) -> Kind:
    if node.op == "placeholder" or _is_simple(node):
        return "machine"
    tensors = (node, *node.all_input_nodes)
    is_plain = all(item.meta.get("dtype") == torch.float64 for item in tensors) and all(
        item.meta["shape"] == "full" for item in tensors
    )
    return "pointwise" if node.target in POINTWISE and is_plain else "across"


def _is_simple(node: fx.Node) -> bool:
    """Return whether the interpreter can compute a node: it has the operation, and float64 holds all values exactly."""
    sources = node.all_input_nodes
    if not sources or any(item.meta.get("dtype") not in _EXACT for item in (node, *sources)):
        return False
    if node.target is shift or is_zeros(node):
        return True
    result_type, source_types = node.meta["dtype"], {item.meta["dtype"] for item in sources}
    if node.op == "call_method":
        is_same_number = result_type in (torch.float64, torch.int32) or source_types == {torch.bool}
        return (
            node.target == "to"
            and node.args[1:] == (result_type,)
            and is_same_number
            and torch.float64 not in source_types
        )
    # Bytes overflow, and torch's sum of two bools is a bool.
    if result_type == torch.uint8 or (
        result_type == torch.bool and OPERATIONS.get(node.target) == machine.ADD
    ):
        return False
    if node.target in _LOGICAL and result_type != torch.bool:
        return False
    is_plain = all(isinstance(item, fx.Node | bool | int | float) for item in node.args)
    return node.target in OPERATIONS and is_plain and not node.kwargs


def _rounded(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments of a node as torch reads them: a Python float next to integer tensors becomes a float32."""
    if torch.float64 in (item.meta["dtype"] for item in node.all_input_nodes):
        return node.args
    return tuple(
        torch.tensor(item, dtype=torch.float32).item() if isinstance(item, float) else item
        for item in node.args
    )
