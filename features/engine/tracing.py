"""Tracing of a feature set into one graph without repeated work.

The set's functions are run once on torch.fx placeholders instead of tensors, which records one graph from the leaves of
a panel to the raw values. Work shared by several features is one node. The only operation that reads other steps is
`features.ops.rolling.shift`, from which all windows are built; every other operation is local to a step. So a graph can
be run over any range of steps, even a single bar, by an executor that keeps the history of shifted values
(features/engine/block_executor.py, features/engine/stream_executor.py), with the same bits as
`features.feature.evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch import fx
from torch.fx.proxy import GraphAppendingTracer

from features.feature import Feature
from features.inputs import LEAVES, InputView
from storage.errors import ContractError


def trace(features: Sequence[Feature]) -> fx.Graph:
    """Return the graph of these features.

    Its placeholders are the leaves that are read (`features.inputs.LEAVES`), in order; its output is a tuple with the
    raw value of each feature, (S, T) or (T,) float64, NaN where unknown.

    Raises:
        ContractError: a function cannot be run on placeholders, or changes a tensor in place.
    """
    graph = fx.Graph()
    tracer = GraphAppendingTracer(graph)
    view = InputView({name: fx.Proxy(_placeholder(graph, name), tracer) for name in LEAVES})  # type: ignore[misc]
    outputs = []
    for item in features:
        try:
            raw: Any = item.function(*(view[name] for name in item.inputs), **dict(item.params))
        except Exception as error:  # torch or the function may raise anything on a placeholder
            raise ContractError(
                f"feature {item.name} cannot be traced to a graph: {error}",
                hint="use torch functions and features.ops.rolling, and no if, loop or number that depends on values",
            ) from error
        outputs.append(raw.node)
    graph.output(tuple(outputs))
    _refuse_in_place(graph)
    return _deduplicate(graph)


def placeholders(graph: fx.Graph) -> tuple[str, ...]:
    """Return the leaves read by a graph, in the order of its placeholders."""
    return tuple(node.meta["leaf"] for node in graph.nodes if node.op == "placeholder")


def _placeholder(graph: fx.Graph, leaf: str) -> fx.Node:
    node = graph.placeholder(leaf.replace(".", "_"))
    node.meta["leaf"] = leaf
    return node


def _deduplicate(graph: fx.Graph) -> fx.Graph:
    """Return the graph without dead nodes and common subexpressions."""
    unique: dict[str, fx.Node] = {}
    slim = fx.Graph()
    place: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "output":
            slim.output(fx.map_arg(node.args[0], lambda old: place[old]))
            break
        # Nodes are printed by their unique name, so this identifies the operation and its arguments.
        args, kwargs = (fx.map_arg(part, lambda old: place[old]) for part in (node.args, node.kwargs))
        signature = f"{node.op} {node.target if isinstance(node.target, str) else id(node.target)} {args!r} {kwargs!r}"
        if node.op == "placeholder" or signature not in unique:
            unique[signature] = slim.node_copy(node, lambda old: place[old])
        place[node] = unique[signature]
    slim.eliminate_dead_code()
    for node in slim.nodes:
        if node.op == "placeholder" and not node.users:
            slim.erase_node(node)
    return slim


_IN_PLACE: Final = "a feature never changes its inputs; others read them too"


def _refuse_in_place(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            raise ContractError(f"a feature calls {node.target} on a tensor", hint=_IN_PLACE)
        if "out" in node.kwargs:
            raise ContractError(f"a feature writes the result of {node.target} into a tensor", hint=_IN_PLACE)
