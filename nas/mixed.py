"""The supernet of differentiable search: on every edge a mixture of all operations, weighted by gates."""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.builder import LayerBuilder, Zeros, labelled
from nas.errors import BadInput
from nas.network import BATCH_NORM_EPSILON, init_layers, trains
from nas.relaxation import Relaxation
from nas.supernet import Supernet, Value, _Collect, _cut, _renamed, _Run

if TYPE_CHECKING:
    from nas.space import Macro, SearchSpace


class Hard(NamedTuple):
    """One operation on each edge, the only one that is computed, times its gate.

    Attributes:
        operation: int32[E], its index.
        gates: float32[E, K]; only the entries at `operation` are read, so gradients reach those.
    """

    operation: jax.Array
    gates: jax.Array


def mixed_supernet(space: "SearchSpace", macro: "Macro") -> Supernet:
    """The program of `space.relaxation`: its `choice` are gates float32[E, K], a `Hard`, or a row int32[L].

    Batch norm has no scale and offset of its own inside the mixtures, and pools are normalised, so that gates alone
    say how strong an operation is (Liu et al., "DARTS", ICLR 2019). Where a choice is a row, pools are as in the
    network that is extracted.

    Raises:
        BadInput: the space has choices that are not between operations.
    """
    relaxation = space.relaxation
    collected = _MixedCollect(macro.input, space.decisions, None)
    space.network(collected, macro)
    layers = collected.finish_all()

    def apply(weights, stats, x, choice, *, carry=None, train, key=None):
        if isinstance(choice, Hard):
            net = _Mixed(space, relaxation, choice.gates, choice.operation, weights, stats, x, train)
        elif jnp.issubdtype(jnp.result_type(choice), jnp.floating):
            net = _Mixed(space, relaxation, choice, None, weights, stats, x, train)
        else:
            net = _Mixed(space, relaxation, relaxation.gates(choice), None, weights, stats, x, train, row=choice)
        out = space.network(net, macro)
        return net.solid(out).array, {**stats, **net.moved}, carry

    def extract(weights, stats, row):
        own = space.layers(row, macro)
        own_weights: dict = {}
        own_stats: dict = {}
        for layer in own:
            if trains(layer):
                name = _mixed_name(space, row, layer.name)
                kept = {n: _cut(own, layer, n, a, collected) for n, a in weights.get(name, {}).items()}
                own_weights |= {layer.name: kept} if kept else {}
                seen = {n: a[: layer.output_shape[-1]] for n, a in stats.get(name, {}).items()}
                own_stats |= {layer.name: seen} if seen else {}
        return own_weights, own_stats

    return Supernet(lambda key, row=None: init_layers(layers, key), apply, extract, tuple(layers))


def edge_between(node: str, source: int) -> str:
    """The name of the edge that brings value `source` of a cell to a node, such as ``normal_3`` and 1."""
    return f"{node}_from_{source}"


def _node_of(edge):
    """``normal_3`` of the pair's edge ``normal_3_a``."""
    return edge.rpartition("_")[0]


def _mixed_name(space, row, name):
    """Where the mixed supernet keeps the arrays of a layer of the row's own network."""
    for decision, place in zip(space.decisions, np.asarray(row), strict=True):
        if decision.name.endswith("_input"):
            edge = decision.name.removesuffix("_input")
            name = re.sub(rf"\b{edge}_input\.(input|node)\.", "", name)
            name = name.replace(f"{edge}_op", f"{edge_between(_node_of(edge), int(place))}_op")
    return name


class _MixedCollect(_Collect):
    """Walks every operation of every edge there is between the values of a cell."""

    mixing = False  # inside an operation of a mixture

    def choice(self, decision, branches):
        results, outside = [], self.mixing
        for _, label, branch in labelled(branches):
            self.mixing = True
            with self.scope(f"{decision}.{label}"):
                results.append(branch())
        self.mixing = outside
        return self._alike(results, f"choice '{decision}'")

    def when(self, predicate, branch, otherwise, *, name):
        if isinstance(predicate, bool | np.bool_):
            return LayerBuilder.when(self, bool(predicate), branch, otherwise, name=name)
        raise _no_operations(name)

    def width(self, decision, of=int):
        raise _no_operations(decision)

    def chosen(self, decision, option):
        return np.bool_(False)

    def batch_norm(self, x, *, affine=True, name="batch_norm"):
        return super().batch_norm(x, affine=affine and not self.mixing, name=name)

    def nodes(self, edges, body, inputs, *, stride=1):
        values, found = list(inputs), []
        for node, names in edges.items():
            terms = [
                body(edge_between(_node_of(names[0]), source), x, stride if source < len(inputs) else 1)
                for source, x in enumerate(values)
            ]
            found.append(self.add(terms, name=node))
            values.append(found[-1])
        return found


def _no_operations(name):
    return BadInput(
        f"space: '{name}' is no choice between operations, so there are no gates for it; differentiable methods "
        "need a space such as nasbench201, darts or fbnet"
    )


class _Mixed(_Run):
    """Computes on arrays; gates are data, and so are the operations of a `Hard` choice."""

    mixing = False

    def __init__(self, space, relaxation: Relaxation, gates, index, weights, stats, x, train, row=None):
        nothing = row if row is not None else jnp.zeros(space.length, jnp.int32)
        super().__init__(space.decisions, nothing, weights, stats, x, train)
        self.row = row
        self.options = dict(zip(relaxation.edges, relaxation.options, strict=True))
        self.gates = {edge: jnp.asarray(gates)[e] for e, edge in enumerate(relaxation.edges)}
        # as floats, because a branch inside a loop may close over differentiable arrays only
        self.index: Any = None if index is None else {e: jnp.float32(index[i]) for i, e in enumerate(relaxation.edges)}

    def chosen(self, decision, option):
        return np.bool_(False) if self.row is None else super().chosen(decision, option)

    def batch_norm(self, x, *, affine=True, name="batch_norm"):
        return super().batch_norm(x, affine=affine and not self.mixing, name=name)

    def choice(self, decision, branches):
        cases = list(labelled(branches))
        options, gates = self.options[decision], self.gates[decision]
        if self.index is not None:
            return self._one(decision, cases, options, gates)
        total: Any = None
        shape = Zeros(())
        for given, label, branch in cases:
            with self.scope(f"{decision}.{label}"):
                value = self._operation(branch, label)
            if isinstance(value, Zeros):
                shape = value
                continue
            gate = gates[jnp.asarray([options.index(option) for option in given])].sum()
            term = value.array * gate.astype(value.array.dtype)
            total = term if total is None else total + term
        return shape if total is None else Value(total)

    def _one(self, decision, cases, options, gates):
        """The operation that the index says, through a switch; ``none`` has no branch and gives zeros."""
        index = jnp.int32(self.index[decision])
        places = [next((k for k, (given, _, _) in enumerate(cases) if o in given), len(cases)) for o in options]
        branches: list[Any] = [(label, lambda b=b, label=label: self._operation(b, label)) for _, label, b in cases]
        if len(cases) in places:
            label, branch = branches[0]
            with self._standing_in({}, self.weights, self.stats), self.scope(f"{decision}.{label}"):
                shape = jax.eval_shape(lambda: self.solid(branch()).array).shape[1:]
            branches.append(("none", lambda: Zeros(shape)))
        value = self._switch(jnp.asarray(places, jnp.int32)[index], decision, branches)
        return Value(value.array * gates[index].astype(value.array.dtype))

    def _operation(self, branch, label):
        """What an operation gives; a pool's mean and variance, which no weights set, are taken out."""
        outside, self.mixing = self.mixing, True
        try:
            value = branch()
        finally:
            self.mixing = outside
        if "pool" not in label or self.row is not None:
            return value
        # of the batch at hand, always: a running mean of it would be of no use to anyone
        wide = value.array.astype(jnp.float32)
        mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
        return Value(((wide - mean) * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)).astype(value.array.dtype))

    def nodes(self, edges, body, inputs, *, stride=1):
        """Every earlier value feeds every node; edges that leave one value are computed together."""
        nodes = [_node_of(names[0]) for names in edges.values()]
        values = [self.solid(x).array for x in inputs]
        sums: list[Any] = [None] * len(nodes)
        for source in range(len(inputs) + len(nodes) - 1):
            later = [k for k in range(len(nodes)) if len(inputs) + k > source]
            x = values[source] if source < len(inputs) else sums[source - len(inputs)]
            names = [edge_between(nodes[k], source) for k in later]
            found = self._leaving(names, Value(x), body, stride if source < len(inputs) else 1)
            for k, value in zip(later, found, strict=True):
                sums[k] = value if sums[k] is None else sums[k] + value
        return [Value(total) for total in sums]

    def _leaving(self, names, x, body, stride):
        """The edges that leave one value: mixtures at once, single operations one after the other in one loop."""
        model = names[0]
        decision = f"{model}_op"
        weights, stats = self._stacked(model, names, self.weights), self._stacked(model, names, self.stats)
        gates = jnp.stack([self.gates[f"{name}_op"] for name in names])
        index = None if self.index is None else jnp.stack([self.index[f"{name}_op"] for name in names])
        outside: Any = self.gates, self.index

        def edge(weights, stats, gates, index):
            self.gates = {**outside[0], decision: gates}
            self.index = None if index is None else {**outside[1], decision: index}
            try:
                with self._standing_in({}, weights, stats):
                    return self.solid(body(model, x, stride)).array, self.moved
            finally:
                self.gates, self.index = outside

        if index is None:
            found, moved = jax.vmap(lambda w, s, g: edge(w, s, g, None))(weights, stats, gates)
        else:
            _, (found, moved) = jax.lax.scan(lambda _, own: (None, edge(*own)), None, (weights, stats, gates, index))
        for i, name in enumerate(names):
            for layer, arrays in moved.items():
                if (own := _renamed(layer, model, name)) in self.stats:
                    self.moved[own] = jax.tree.map(lambda a, i=i: a[i], arrays)
        return list(found)
