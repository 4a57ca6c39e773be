"""The recurrent cell of DARTS, for language models: each node takes one earlier node and one activation.

Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, sections 2.1 and 3.1.2, and their code
(github.com/quark0/darts, rnn). Node 0 is a highway from the last state by the embedded token and that state; each of
the other eight is one from an earlier node by that node; the mean of the eight is the new state, from which the next
token is scored by the table of the embedding. Embedding, state and output are of one width, as in the paper.
"""

from typing import Any

import jax.numpy as jnp

from nas.edges import edge_between
from nas.errors import BadInput
from nas.relaxation import Relaxation
from nas.space import Decision, Macro, SearchSpace
from search_spaces.darts_rnn_supernet import ACTIVATIONS, Cell, supernet

OUTPUT = "cell.output"


def darts_rnn(nodes: int = 8, width: int = 64) -> SearchSpace:
    """Decisions ``node_1_input``, ``node_1_op``, ``node_2_input``, ... for nodes 1 to `nodes`; 10^10 rows.

    Two rows that differ in the numbering of their nodes alone are the same family of networks; they are not found to
    be twins.

    Args:
        nodes: after node 0; 8 in the paper.
        width: of the macro searched at: 300 in the paper, which deploys at 850 on the Penn Treebank and at 700 on
            WikiText-2.

    Raises:
        BadInput: a number out of range.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int) or not 1 <= nodes <= 16:
        raise BadInput(f"darts_rnn: nodes is {nodes!r}; it must be a whole number from 1 to 16")
    numbers = range(1, nodes + 1)
    return SearchSpace(
        name="darts_rnn",
        decisions=tuple(
            Decision(f"node_{node}_{what}", tuple(range(node)) if what == "input" else ACTIVATIONS)
            for node in numbers
            for what in ("input", "op")
        ),
        network=lambda net, macro: network(net, macro, nodes),
        macro=Macro(width, 1, (35,), 10_000),
        supernet_of=lambda space, macro: supernet(_cell(space, macro, nodes), normalise=False),
        relaxation_of=lambda space: _relaxation(nodes),
        mixed_of=lambda space, macro: supernet(_cell(space, macro, nodes), normalise=True),
        arguments={"nodes": nodes},
    )


def network(net: Any, macro: Macro, nodes: int = 8) -> Any:
    """Tokens to the scores of the next ones, (T,) to (T, classes)."""
    if len(macro.input) != 1:
        size = "x".join(map(str, macro.input))
        raise BadInput(f"macro: input {size} is of images; darts_rnn reads a text: give the tokens of a sequence alone")
    if macro.depth != 1:
        raise BadInput(f"macro: depth is {macro.depth}; darts_rnn has one cell: leave it at 1")
    x = net.embedding(net.input, macro.classes, macro.width)
    with net.scope("cell"):
        h = net.state(net.shape(x), OUTPUT)
        with net.scope("node_0"):
            found = [net.highway(h, net.linear(net.concat([x, h]), 2 * macro.width, bias=False), "tanh")]
        for node in range(1, nodes + 1):
            with net.scope(f"node_{node}"):
                s = net.choice(f"node_{node}_input", {i: lambda i=i: found[i] for i in range(node)})
                gated = net.linear(s, 2 * macro.width, bias=False)
                kinds = {kind: lambda kind=kind, s=s, gated=gated: kind for kind in ACTIVATIONS}
                found.append(net.highway(s, gated, net.choice(f"node_{node}_op", kinds)))
        out = net.mean(found[1:], name="output")
    return net.decode(out, macro.classes)


def _cell(space: SearchSpace, macro: Macro, nodes: int) -> Cell:
    # every row has the same arrays: a node's matrix is the same whatever it reads
    return Cell(space.layers([0] * space.length, macro), nodes, macro.width)


def _relaxation(nodes: int) -> Relaxation:
    """Every edge between two nodes, with ``none`` as one more operation.

    A node keeps the strongest of its edges, by its strongest operation that is not ``none`` (DARTS, section 2.4).
    """
    edges = [(node, source) for node in range(1, nodes + 1) for source in range(node)]
    first = {node: edges.index((node, 0)) for node in range(1, nodes + 1)}

    def gates(row):
        pairs = jnp.asarray(row).reshape(-1, 2)  # node, (input, operation)
        found = jnp.zeros((len(edges), 1 + len(ACTIVATIONS)))
        for node in range(1, nodes + 1):
            found = found.at[first[node] + pairs[node - 1, 0], 1 + pairs[node - 1, 1]].set(1.0)
        return found

    def discretise(gates):
        strength, best = gates[:, 1:].max(-1), gates[:, 1:].argmax(-1)
        row = []
        for node in range(1, nodes + 1):
            source = strength[first[node] : first[node] + node].argmax()
            row += [source, best[first[node] + source]]
        return jnp.stack(row).astype(jnp.int32)

    names = tuple(f"{edge_between(f'node_{node}', source)}_op" for node, source in edges)
    targets = tuple(f"node_{node}" for node, _ in edges)
    return Relaxation(names, (("none", *ACTIVATIONS),) * len(edges), gates, discretise, targets)
