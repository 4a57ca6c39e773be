"""DARTS's genotypes: read and written as text, and as rows of its spaces. Never evaluated as code."""

import ast
import warnings
from typing import NamedTuple

import numpy as np

from nas.errors import BadInput
from nas.space import SearchSpace
from search_spaces.cells import CELLS, amoebanet, darts, edges_of, keeps_loose_ends, nasnet
from search_spaces.darts_rnn import darts_rnn

FORM = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...], reduce_concat=[...])"
RECURRENT_FORM = "Genotype(recurrent=[('tanh', 0), ...], concat=range(1, 9))"
LARGEST = 10_000  # characters; the largest published genotype has 600
Pairs = tuple[tuple[str, int], ...]


class Genotype(NamedTuple):
    """Two cells as (operation, input) pairs, two a node, and the numbers of the nodes that make each cell's output."""

    normal: Pairs
    normal_concat: tuple[int, ...]
    reduce: Pairs
    reduce_concat: tuple[int, ...]

    def __str__(self) -> str:
        """As DARTS prints it; `parse` reads it back."""
        return f"Genotype({', '.join(f'{name}={list(value)}' for name, value in self._asdict().items())})"


class Recurrent(NamedTuple):
    """A recurrent cell: (activation, node it reads) of node 1, 2, ..., and the nodes whose mean is the output."""

    recurrent: Pairs
    concat: tuple[int, ...]

    def __str__(self) -> str:
        """As DARTS prints it; `parse` reads it back."""
        return f"Genotype({', '.join(f'{name}={list(value)}' for name, value in self._asdict().items())})"


def parse(text: str) -> Genotype | Recurrent:
    """A genotype from text such as ``DARTS_V2 = Genotype(normal=[...], ...)``; ``range(2, 6)`` may stand for a list.

    Raises:
        BadInput: anything else.
    """
    if len(text) > LARGEST:
        raise BadInput(f"genotype: {len(text)} characters; a genotype has at most {LARGEST}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd numbers and escapes, which are refused below
            statements = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadInput(f"genotype: cannot be read; it looks like {FORM}") from None
    call = statements[0].value if len(statements) == 1 and isinstance(statements[0], ast.Expr | ast.Assign) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
        raise BadInput(f"genotype: must be one Genotype(...); it looks like {FORM}")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if not call.args and len(call.keywords) == 2 and set(given) == set(Recurrent._fields):
        return Recurrent(_pairs(given["recurrent"], "recurrent"), _numbers(given["concat"], "concat"))
    if call.args or len(call.keywords) != len(given) or set(given) != set(Genotype._fields):
        needs = f"needs {', '.join(Genotype._fields)}, each once and by name"
        raise BadInput(f"genotype: {needs}; it looks like {FORM}, or {RECURRENT_FORM}")
    cells = {n: _pairs(given[n], n) for n in ("normal", "reduce")}
    concats = {n: _numbers(given[n], n) for n in ("normal_concat", "reduce_concat")}
    return Genotype(cells["normal"], concats["normal_concat"], cells["reduce"], concats["reduce_concat"])


def _items(node: ast.expr, name: str) -> list[ast.expr]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise BadInput(f"genotype: '{name}' is no list; it looks like {FORM}")
    return node.elts


def _shown(node: ast.expr) -> str:
    try:
        return ast.unparse(node)[:40]
    except (RecursionError, ValueError):
        return "..."


def _literal(node: ast.expr, kind: type, name: str):
    if not isinstance(node, ast.Constant) or type(node.value) is not kind:
        what = "a whole number" if kind is int else "an operation's name in quotes"
        raise BadInput(f"genotype: '{name}' holds '{_shown(node)}' where {what} belongs")
    return node.value


def _pairs(node: ast.expr, name: str) -> Pairs:
    found = []
    for item in _items(node, name):
        parts = _items(item, name)
        if len(parts) != 2:
            raise BadInput(f"genotype: '{name}' holds '{_shown(item)}', not a pair ('operation', input)")
        found.append((_literal(parts[0], str, name), _literal(parts[1], int, name)))
    return tuple(found)


def _numbers(node: ast.expr, name: str) -> tuple[int, ...]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        ends = [_literal(end, int, name) for end in node.args]
        if len(ends) == 2 and not node.keywords and 0 <= ends[0] <= ends[1] <= 100:
            return tuple(range(*ends))
        raise BadInput(f"genotype: '{name}' is '{_shown(node)}'; a range looks like range(2, 6)")
    return tuple(_literal(item, int, name) for item in _items(node, name))


# ---- rows --------------------------------------------------------------------------------------------------------
def to_row(genotype: Genotype | Recurrent, space: SearchSpace) -> np.ndarray:
    """The row int32[L] of a cell space that is this genotype.

    Raises:
        BadInput: an operation or a number of nodes that the space does not have, or other nodes at the output.
    """
    if isinstance(genotype, Recurrent):
        return _recurrent_row(genotype, space)
    choices: dict[str, str | int] = {}
    for cell, pairs in zip(CELLS, (genotype.normal, genotype.reduce), strict=True):
        numbers = _node_numbers(space, cell)
        if len(pairs) != 2 * len(numbers):
            raise BadInput(
                f"genotype: {len(pairs)} pairs in '{cell}'; space '{space.name}' has {len(numbers)} nodes of two"
            )
        for edge, (op, source) in zip((e for n in numbers for e in edges_of(cell, n)), pairs, strict=True):
            choices |= {f"{edge}_input": source, f"{edge}_op": op}
    row = space.encode(choices)
    for name in ("normal_concat", "reduce_concat"):
        given, own = sorted(getattr(genotype, name)), list(getattr(from_row(row, space), name))
        if given != own:
            raise BadInput(f"genotype: {name} is {given}; space '{space.name}' concatenates {own} here")
    return row


def _recurrent_row(genotype, space):
    nodes = space.length // 2
    if space.name != "darts_rnn" or len(genotype.recurrent) != nodes:
        raise BadInput(f"genotype: {len(genotype.recurrent)} recurrent nodes; it is not of this space, '{space.name}'")
    if sorted(genotype.concat) != list(range(1, nodes + 1)):
        raise BadInput(f"genotype: concat is {list(genotype.concat)}; space 'darts_rnn' takes the mean of all nodes")
    pairs = enumerate(genotype.recurrent, 1)
    return space.encode({k: v for n, (op, i) in pairs for k, v in ((f"node_{n}_input", i), (f"node_{n}_op", op))})


def from_row(row, space: SearchSpace) -> Genotype | Recurrent:
    """The genotype of a row of a cell space."""
    choices = space.decode(row)
    if space.name == "darts_rnn":
        nodes = tuple(range(1, space.length // 2 + 1))
        return Recurrent(tuple((choices[f"node_{n}_op"], choices[f"node_{n}_input"]) for n in nodes), nodes)
    parts: list[tuple] = []
    for cell in CELLS:
        numbers = _node_numbers(space, cell)
        edges = [edge for n in numbers for edge in edges_of(cell, n)]
        pairs = tuple((choices[f"{edge}_op"], choices[f"{edge}_input"]) for edge in edges)
        read = {source for _, source in pairs} if keeps_loose_ends(space) else set()
        parts += [pairs, tuple(n for n in numbers if n not in read)]
    return Genotype(*parts)


def space_of(genotype: Genotype | Recurrent) -> SearchSpace:
    """The cell space a genotype belongs to: of those that hold it, the one with the fewest operations.

    Raises:
        BadInput: none holds it; the message says why for each.
    """
    if isinstance(genotype, Recurrent):
        space = darts_rnn(nodes=len(genotype.recurrent))
        to_row(genotype, space)
        return space
    reasons: dict[str, str] = {}
    for factory in (darts, amoebanet, nasnet):
        try:
            space = factory(nodes=len(genotype.normal) // 2)
            to_row(genotype, space)
            return space
        except BadInput as error:
            reasons |= {factory.__name__: str(error).removeprefix("genotype: ")}
    raise BadInput("genotype: no space holds it; " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))


def _node_numbers(space: SearchSpace, cell: str) -> range:
    names = [d.name for d in space.decisions if d.name.startswith(f"{cell}_") and d.name.endswith("_a_input")]
    if not names:
        raise BadInput(
            f"genotype: space '{space.name}' is no cell space; there are darts, nasnet, amoebanet and darts_rnn"
        )
    return range(2, len(names) + 2)
