"""The shared program of the recurrent cells: for rows, and for gates on every edge between two nodes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.layers import Layer
from nas.mixed import Hard
from nas.network import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, activation, init_layers
from nas.supernet import Supernet

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
STATS = "cell"


class Cell(NamedTuple):
    """What the program is made for.

    Attributes:
        layers: of any one row; all have the same arrays.
        nodes: after node 0.
        width: of embedding and state, H.
    """

    layers: tuple[Layer, ...]
    nodes: int
    width: int


def supernet(cell: Cell, *, normalise: bool) -> Supernet:
    """A supernet whose `choice` is a row int32[2 nodes], gates float32[E, 1 + 4], or `nas.mixed.Hard` ones.

    Its arrays are those of every row's own network, under the same names: a node has one matrix, whatever it reads and
    however it is activated. The state starts at zeros in each sequence unless a `carry` says otherwise.

    A row computes one edge for each node; gates compute all, the states that a node may read in one product with its
    matrix. The sum over edges is weighted by gates, where ``none`` takes its share and gives nothing.

    Args:
        cell: frame.
        normalise: batch norm without scale and offset behind every node, as the paper has while searching, against
            gradients that explode. Its code has one running mean for all nodes and moves it at every token; here each
            node has its own, moved once by the mean over tokens. The derived network has no batch norm, so what a
            row gives here is not what its own network gives; without `normalise` it is.

    The gradient keeps what is inside the cell for every token: computing it again takes 1.8 times as long on a CPU.
    """

    def init(key, row=None):
        weights, stats = init_layers(cell.layers, key)
        if normalise:
            shape = (1 + cell.nodes, cell.width)
            stats = {STATS: {"mean": jnp.zeros(shape), "var": jnp.ones(shape)}}
        return weights, stats

    def apply(weights, stats, x, choice, *, carry=None, train, key=None):
        table, matrices = weights["embedding"]["kernel"], _matrices(weights, cell.nodes)
        combine = _by_row(choice) if _is_row(choice) else _by_gates(_gates(choice))
        running = stats[STATS] if normalise else None

        def token(h, x):
            moments = []

            def settled(s, node):
                if running is None:
                    return s
                out, own = _batch_norm(s, None if train else (running["mean"][node], running["var"][node]))
                moments.append(own)
                return out

            states = settled(_highway(h, jnp.concatenate([x, h], -1) @ matrices[0], "tanh"), 0)[None]
            for node in range(1, cell.nodes + 1):
                s = settled(combine(node, states, matrices[node]), node)
                states = jnp.concatenate([states, s[None]])
            out = states[1:].mean(0)
            return out, (out, tuple(map(jnp.stack, zip(*moments, strict=True))))

        start = jnp.zeros((len(x), cell.width), table.dtype) if carry is None else carry
        carry, (outs, moments) = jax.lax.scan(token, start, table[x].swapaxes(0, 1))
        if running is not None and train:
            moved = dict(zip(("mean", "var"), (jax.lax.stop_gradient(m.mean(0)) for m in moments), strict=True))
            keep = BATCH_NORM_MOMENTUM
            stats = {STATS: jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, running, moved)}
        out = outs.swapaxes(0, 1) @ table.T + weights["decode"]["bias"]
        return out, stats, carry

    return Supernet(init, apply, lambda weights, stats, row: (weights, {}))


def _matrices(weights: Mapping, nodes: int) -> list[jax.Array]:
    """[2 H, 2 H] of node 0, and [H, 2 H] of each other node."""
    return [weights[f"cell.node_{node}.linear"]["kernel"] for node in range(nodes + 1)]


def _is_row(choice: Any) -> bool:
    return not isinstance(choice, Hard) and not jnp.issubdtype(jnp.result_type(choice), jnp.floating)


def _gates(choice: Any) -> jax.Array:
    """float32[E, K]; of `Hard` ones all but the operation's own are zero, and have no gradient."""
    if isinstance(choice, Hard):
        return choice.gates * jax.nn.one_hot(choice.operation, choice.gates.shape[-1])
    return choice


def _highway(s: jax.Array, gated: jax.Array, kind: str) -> jax.Array:
    c, h = jnp.split(gated, 2, -1)
    return s + jax.nn.sigmoid(c) * (activation(kind, h) - s)


def _by_row(row: Any):
    """``(node, states float[node, B, H], matrix) -> float[B, H]`` of the input and the activation that a row takes."""
    pairs = jnp.asarray(row).reshape(-1, 2)

    def combine(node, states, matrix):
        s = jax.lax.dynamic_index_in_dim(states, pairs[node - 1, 0], keepdims=False)
        c, h = jnp.split(s @ matrix, 2, -1)
        value = jnp.stack([activation(kind, h) for kind in ACTIVATIONS])
        chosen = jax.lax.dynamic_index_in_dim(value, pairs[node - 1, 1], keepdims=False)
        return s + jax.nn.sigmoid(c) * (chosen - s)

    return combine


def _by_gates(gates: jax.Array):
    """The same, of all inputs and activations, weighted."""

    def combine(node, states, matrix):
        first = node * (node - 1) // 2
        own = gates[first : first + node, 1:].astype(states.dtype)[:, :, None, None]  # source, activation
        c, h = jnp.split(states @ matrix, 2, -1)
        value = sum(own[:, k] * activation(kind, h) for k, kind in enumerate(ACTIVATIONS))
        return (own.sum(1) * states + jax.nn.sigmoid(c) * (value - own.sum(1) * states)).sum(0)

    return combine


def _batch_norm(s: jax.Array, running: tuple[jax.Array, jax.Array] | None):
    """(normalised float[B, H], (mean, variance)); of the batch itself where there are no running ones."""
    wide = s.astype(jnp.float32)
    mean, var = (wide.mean(0), wide.var(0)) if running is None else running
    return ((wide - mean) * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)).astype(s.dtype), (mean, var)
