"""The supernet of differentiable search: on every edge a mixture of all operations, weighted by gates."""

import contextlib
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.builder import Zeros
from nas.edges import groups_of
from nas.errors import BadInput
from nas.mixed_layers import _MixedCollect, mixed_name, partial_choice
from nas.network import BATCH_NORM_EPSILON, init_layers, trains
from nas.relaxation import Relaxation
from nas.supernet import Supernet, Value, _at, _cut, _Run

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


def mixed_supernet(space: "SearchSpace", macro: "Macro", *, remat: bool = True, part: int = 1) -> Supernet:
    """The program of `space.relaxation`: its `choice` are gates float32[E, K], a `Hard`, or a row int32[L].

    Batch norm has no scale and offset of its own inside the mixtures, and pools are normalised, so that gates alone
    say how strong an operation is (Liu et al., "DARTS", ICLR 2019). A row costs one operation on each of its edges, and
    pools are then as in the network that is extracted.

    The edges of a cell hold their arrays as one, under a name such as ``cells.0.normal_edges_op.sep_conv_3x3...``,
    whose leading axis is the edge, and run in one loop: a cell compiles one edge, or two where it halves its inputs.

    Args:
        space: with choices between operations.
        macro: frame.
        remat: whether the gradient computes each edge of a cell again instead of keeping what is inside it: a fraction
            of the memory, and on a CPU faster as well. Spaces without such cells keep everything.
        part: where K above 1, operations see the first 1/K of the channels and the others pass an edge by, see
            `nas.mixed_layers.partial_choice`. Such weights fit no network of the space, so that `extract` is refused.

    Raises:
        BadInput: the space has choices that are not between operations, or partial channels cannot be.
    """
    if space.mixed_of is not None:
        if part > 1:
            raise BadInput(f"space '{space.name}': its operations have no channels to leave out; set part=1")
        return space.mixed_of(space, macro)
    relaxation = space.relaxation
    collected = _MixedCollect(macro.input, space.decisions, None, part)
    space.network(collected, macro)
    layers = collected.finish_all()
    copies = {layer.name: collected.copies.get(layer.name) for layer in layers}

    def init(key, row=None):
        weights: dict = {}
        stats: dict = {}
        for i, count in enumerate(dict.fromkeys(copies.values())):
            draw = functools.partial(init_layers, [layer for layer in layers if copies[layer.name] == count])
            own = jax.random.fold_in(key, i)
            drawn, fresh = draw(own) if count is None else jax.vmap(draw)(jax.random.split(own, count))
            weights, stats = weights | drawn, stats | fresh
        return weights, stats

    def apply(weights, stats, x, choice, *, carry=None, train, key=None):
        parts = weights, stats, x, train, remat, part
        if isinstance(choice, Hard):
            net = _Mixed(space, relaxation, choice.gates, choice.operation, *parts)
        elif jnp.issubdtype(jnp.result_type(choice), jnp.floating):
            net = _Mixed(space, relaxation, choice, None, *parts)
        else:
            taken = relaxation.gates(choice).argmax(-1)  # inside a cell the row says more, see `_operations`
            net = _Mixed(space, relaxation, jnp.ones(relaxation.allowed.shape), taken, *parts, row=choice)
        out = space.network(net, macro)
        return net.solid(out).array, {**stats, **net.moved}, carry

    def extract(weights, stats, row):
        if part > 1:
            raise BadInput(f"shared weights of 1/{part} of the channels fit no network of the space; train it anew")
        own = space.layers(row, macro)
        own_weights: dict = {}
        own_stats: dict = {}
        for layer in own:
            if trains(layer):
                name, at = collected.place(mixed_name(space, row, layer.name))
                found = {n: a if at is None else a[at] for n, a in weights.get(name, {}).items()}
                seen = {n: a if at is None else a[at] for n, a in stats.get(name, {}).items()}
                kept = {n: _cut(own, layer, n, a, collected) for n, a in found.items()}
                own_weights |= {layer.name: kept} if kept else {}
                own_stats |= {layer.name: {n: a[: layer.output_shape[-1]] for n, a in seen.items()}} if seen else {}
        return own_weights, own_stats

    return Supernet(init, apply, extract, tuple(layers))


class _Mixed(_Run):
    """Computes on arrays; gates are data, and so are the operations of a `Hard` choice."""

    mixing = False

    def __init__(self, space, relaxation: Relaxation, gates, index, weights, stats, x, train, remat, part, row=None):
        nothing = row if row is not None else jnp.zeros(space.length, jnp.int32)
        super().__init__(space.decisions, nothing, weights, stats, x, train)
        self.row, self.remat, self.part = row, remat, part
        self.options = dict(zip(relaxation.edges, relaxation.options, strict=True))
        self.gates: Any = {edge: jnp.asarray(gates)[e] for e, edge in enumerate(relaxation.edges)}
        # as floats, because a branch inside a loop may close over differentiable arrays only
        self.index: Any = None if index is None else {e: jnp.float32(index[i]) for i, e in enumerate(relaxation.edges)}

    def chosen(self, decision, option):
        return np.bool_(False) if self.row is None else super().chosen(decision, option)

    def batch_norm(self, x, *, affine=True, name="batch_norm"):
        return super().batch_norm(x, affine=affine and not self.mixing, name=name)

    def choice(self, decision, branches, on=None):
        return partial_choice(self, decision, branches, on)

    def channels(self, x, first, last):
        return Value(self.solid(x).array[..., first:last])

    def passing(self, decision, x):
        """`x` times the sum of the edge's gates; nothing where a row or `Hard` takes ``none``."""
        gates = self.gates[decision]
        total = gates.sum()
        if self.index is not None:
            options, index = self.options[decision], jnp.int32(self.index[decision])
            total = gates[index] * jnp.asarray([option != "none" for option in options])[index]
        return Value(x.array * total.astype(x.array.dtype))

    def mixture(self, decision, cases):
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
        """Every earlier value feeds every node; edges of equal shapes are one loop, whose body is compiled once."""
        values = jnp.stack([self.solid(x).array for x in inputs])
        nodes = jnp.zeros((len(edges), *values.shape[1:]), values.dtype)
        sums: Any = jnp.concatenate([values, nodes]) if stride == 1 else None
        for group in groups_of(edges, len(inputs), stride):
            sums = self._along(group, body, sums, values if group.stride > 1 else None, len(edges))
        return [Value(total) for total in sums[-len(edges) :]]

    def _along(self, group, body, sums, values, nodes):
        """`sums` with what each link brings to its node added; links read `values`, or `sums` where there are none.

        A row takes each edge twice, for either pair of the node.
        """
        decision, start = f"{group.name}_op", ".".join([*self._path, f"{group.name}_"])
        times = 1 if self.row is None else len(group.links[0].pairs)
        weights, stats = ({n: a for n, a in t.items() if n.startswith(start)} for t in (self.weights, self.stats))
        own = (
            jnp.repeat(jnp.asarray([[link.source, link.node] for link in group.links]), times, 0),
            jax.tree.map(lambda a: jnp.repeat(a, times, 0) if times > 1 else a, (weights, stats)),
            jnp.stack([self.gates[f"{link.edge}_op"] for link in group.links for _ in range(times)]),
            None if self.index is None else jnp.stack([i for link in group.links for i in self._operations(link)]),
        )

        def edge(x, weights, stats, gates, index):
            with self._on_edge(decision, gates, index), self._standing_in({}, weights, stats):
                return self.solid(body(group.name, Value(x), group.stride)).array, self.moved

        once = jax.checkpoint(edge) if self.remat else edge

        def step(sums, own):
            ends, (weights, stats), gates, index = own
            x = _at(sums if values is None else values, ends[0]).array
            value, moved = once(x, weights, stats, gates, index)
            return sums.at[ends[1]].add(value), jax.tree.map(jnp.subtract, moved, stats)

        self.options[decision] = self.options[f"{group.links[0].edge}_op"]
        if sums is None:
            _, arrays, *first = jax.tree.map(lambda a: a[0], own)
            shape = jax.eval_shape(edge, values[0], *arrays, *first)[0].shape
            sums = jnp.zeros((nodes, *shape), values.dtype)
        sums, change = jax.lax.scan(step, sums, own)
        self.moved |= jax.tree.map(lambda a, d: a + d.reshape(-1, times, *d.shape[1:]).sum(1), stats, change)
        return sums

    def _operations(self, link):
        """The operation on an edge, as a number; of a row, of each pair of the node: ``none`` if it reads another."""
        if self.row is None:
            return [self.index[f"{link.edge}_op"]]
        options, found = self.options[f"{link.edge}_op"], []
        for pair in link.pairs:
            places = [options.index(o) for o in self._decisions[f"{pair}_op"].options]
            taken = jnp.asarray(places, jnp.float32)[jnp.int32(self._row[f"{pair}_op"])]
            found.append(jnp.where(self._row[f"{pair}_input"] == link.number, taken, options.index("none")))
        return found

    @contextlib.contextmanager
    def _on_edge(self, decision, gates, index):
        outside = self.gates, self.index
        self.gates = {**outside[0], decision: gates}
        self.index = None if index is None else {**outside[1], decision: index}
        try:
            yield
        finally:
            self.gates, self.index = outside
