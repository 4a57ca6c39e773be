"""A supernet: one program that computes every architecture of a space, chosen by data."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.builder import LayerBuilder, Zeros, labelled
from nas.errors import BadInput
from nas.layers import Layer, Shape
from nas.network import apply_layers, init_layer, init_layers, run_layer, trains
from nas.switch import switch

if TYPE_CHECKING:
    from nas.space import Macro, SearchSpace


class Supernet(NamedTuple):
    """Pure functions; the weights of all choices live side by side in one pytree.

    Attributes:
        init: ``(key, row=None) -> (weights, stats)``; stats are the batch-norm statistics. With a row, the kernels are
            drawn for that architecture's fan-in where the space's widths are elastic.
        apply: ``(weights, stats, x, choice, *, carry=None, train, key=None) -> (out, stats, carry)``. `x` is
            float[B, H, W, C], `choice` a row int32[L] (or gates, for a relaxed space), `out` float[B, classes].
            `carry` is what a recurrent network hands on; None elsewhere. Choosing another row compiles nothing.
        extract: ``(weights, stats, row) -> (weights, stats)`` of that row's own network, under its layer names, as
            `nas.network.Network.load` takes them.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any, Any]]
    extract: Callable[..., tuple[dict, dict]]


def choice_supernet(space: "SearchSpace", macro: "Macro") -> Supernet:
    """The supernet of any space written with ``net.choice``: every branch has weights, `switch` runs the chosen one.

    A candidate costs what its own operations cost. Elastic widths (``net.width``) are masked: the largest width is
    computed and the rest set to zero, so a narrow candidate costs as much as the widest.
    """
    collected = _collect(space, macro, None)

    def init(key, row=None):
        found = _collect(space, macro, row)
        trained = [(layer, i) for i, layer in enumerate(found.finish_all()) if trains(layer)]
        weights, stats = {}, {}
        for (layer, i), k in zip(trained, jax.random.split(key, len(trained)), strict=True):
            w, s = init_layer(layer, k)
            active = found.active.get(layer.inputs[0])
            if active is not None and "kernel" in w and layer.attributes.get("groups", 1) == 1:
                w["kernel"] = w["kernel"] * jnp.sqrt(layer.input_shapes[0][-1] / active)
            weights |= {layer.name: w} if w else {}
            stats |= {layer.name: s} if s else {}
        return weights, stats

    def apply(weights, stats, x, choice, *, carry=None, train, key=None):
        net = _Run(space.decisions, choice, weights, stats, x, train)
        out = space.network(net, macro)
        return net.solid(out).array, {**stats, **net.moved}, carry

    def extract(weights, stats, row):
        layers = space.layers(row, macro)
        own_weights, own_stats = {}, {}
        for layer in layers:
            if trains(layer):
                cut = {n: _cut(layers, layer, n, a, collected) for n, a in weights.get(layer.name, {}).items()}
                own_weights |= {layer.name: cut} if cut else {}
                kept = {n: a[: layer.output_shape[-1]] for n, a in stats.get(layer.name, {}).items()}
                own_stats |= {layer.name: kept} if kept else {}
        return own_weights, own_stats

    return Supernet(init, apply, extract)


def network_supernet(layers: tuple[Layer, ...]) -> Supernet:
    """One resolved network in the supernet's form, its `choice` ignored: what is trained alone."""

    def apply(weights, stats, x, choice=None, *, carry=None, train, key=None):
        out, stats = apply_layers(layers, weights, stats, x, train=train)
        return out, stats, carry

    return Supernet(
        lambda key, row=None: init_layers(layers, key), apply, lambda weights, stats, row=None: (weights, stats)
    )


class Elastic(int):
    """A channel count: the largest as a number for shapes, and the active count as data."""

    active: Any

    def __new__(cls, largest: int, active: Any) -> "Elastic":
        """An int with `active` attached."""
        value = super().__new__(cls, largest)
        value.active = active
        return value


class Value(NamedTuple):
    """What a running supernet passes on: an array [B, ...], and how many channels are active (None: all)."""

    array: jax.Array
    active: Any = None


class _Collect(LayerBuilder):
    """Walks every branch, to find all layers that hold weights."""

    def __init__(self, input_shape, decisions, row):
        super().__init__(input_shape, decisions, [0] * len(decisions))
        self.row = None if row is None else dict(zip(self._decisions, row, strict=True))
        self.active: dict[int, Any] = {}  # handle -> active channels, where not all are

    def choice(self, decision, branches):
        results = []
        options = self._decisions[decision].options
        covered = [o for given, _, _ in labelled(branches) for o in given]
        if missing := [o for o in options if o not in covered]:
            raise BadInput(f"network: choice '{decision}' has no branch for option {missing[0]!r}")
        for _, label, branch in labelled(branches):
            with self.scope(f"{decision}.{label}"):
                results.append(branch())
        shapes = {self.shape(r) for r in results}
        if len(shapes) > 1:
            shown = " and ".join(map(str, sorted(shapes)))
            raise BadInput(f"network: the branches of choice '{decision}' give different shapes: {shown}")
        return next((r for r in results if not isinstance(r, Zeros)), results[0])

    def chosen(self, decision, option):
        return np.bool_(True) if self.row is None else _chosen(self._decisions[decision], self.row[decision], option)

    def width(self, decision):
        options = self._decisions[decision].options
        return Elastic(max(options), None if self.row is None else jnp.asarray(options)[self.row[decision]])

    def concat(self, xs, *, keep=None, name="concat"):
        handle = super().concat(xs, name=name)
        if keep is not None and self.row is not None:
            widths = [self.active.get(x, self.shape(x)[-1]) for x in xs]
            self.active[handle] = sum(w * k for w, k in zip(widths, keep, strict=True))
        return handle

    def _add(self, op, inputs, shape, name, attributes):
        handle = super()._add(op, inputs, shape, name, attributes)
        active = getattr(attributes["features"], "active", None) if "features" in attributes else None
        if "features" not in attributes and inputs:
            active = self.active.get(self._layers[handle].inputs[0])
        if active is not None:
            self.active[handle] = active
        return handle

    def finish_all(self) -> list[Layer]:
        return self._layers


def _collect(space, macro, row) -> _Collect:
    net = _Collect(macro.input, space.decisions, row)
    space.network(net, macro)
    return net


class _Run(LayerBuilder):
    """Computes on arrays; the row is data."""

    def __init__(self, decisions: Sequence, row: Any, weights: Mapping, stats: Mapping, x: jax.Array, train: bool):
        self._decisions = {d.name: d for d in decisions}
        self._row = {d.name: row[i] for i, d in enumerate(decisions)}
        self._path, self._in_block = [], True
        self.weights, self.stats, self.train = weights, stats, train
        self.moved: dict[str, Any] = {}
        self.input = Value(x)

    def shape(self, x: Any) -> Shape:
        return x.shape if isinstance(x, Zeros) else x.array.shape[1:]

    def solid(self, x: Any) -> Value:
        batch, dtype = self.input.array.shape[0], self.input.array.dtype
        return Value(jnp.zeros((batch, *x.shape), dtype)) if isinstance(x, Zeros) else x

    def chosen(self, decision, option):
        return _chosen(self._decisions[decision], self._row[decision], option)

    def width(self, decision):
        options = self._decisions[decision].options
        return Elastic(max(options), jnp.asarray(options)[self._row[decision]])

    def choice(self, decision, branches):
        options = self._decisions[decision].options
        cases = list(labelled(branches))
        table = [next(k for k, (given, _, _) in enumerate(cases) if option in given) for option in options]
        index = jnp.asarray(table, jnp.int32)[self._row[decision]]
        prefix = ".".join([*self._path, decision, ""])
        below = {name: s for name, s in self.stats.items() if name.startswith(prefix)}
        outer = self.moved

        def case(label, branch):
            def go():
                self.moved = dict(below)
                with self.scope(f"{decision}.{label}"):
                    value = self.solid(branch())
                return value, self.moved

            return jax.closure_convert(go)

        converted = [case(label, branch) for _, label, branch in cases]
        # one list of what any branch closes over, each array once
        consts = list({id(c): c for _, cs in converted for c in cs}.values())
        place = {id(c): i for i, c in enumerate(consts)}
        taken = [[place[id(c)] for c in cs] for _, cs in converted]
        runs = [lambda *all, f=f, at=at: f(*(all[i] for i in at)) for (f, _), at in zip(converted, taken, strict=True)]
        value, moved = switch(index, runs, *consts)
        self.moved = {**outer, **moved}
        return value

    def concat(self, xs, *, keep=None, name="concat"):
        parts = [self.solid(x).array for x in xs]
        if keep is not None:
            parts = [jnp.where(k, p, 0) for p, k in zip(parts, keep, strict=True)]
        return Value(jnp.concatenate(parts, -1))

    def _add(self, op, inputs, shape, name, attributes):
        ins = [self.solid(x) for x in inputs]
        shapes = tuple(self.shape(x) for x in ins)
        path = ".".join([*self._path, name])
        layer = Layer(path, op, attributes, tuple(range(len(ins))), shapes, tuple(shape))
        out, moved = run_layer(
            layer, self.weights.get(path, {}), self.stats.get(path), [x.array for x in ins], self.train
        )
        if moved is not None:
            self.moved[path] = jax.lax.stop_gradient(moved)
        active = getattr(attributes["features"], "active", None) if "features" in attributes else ins[0].active
        if active is not None and op in ("conv", "linear", "batch_norm"):
            out = jnp.where(jnp.arange(out.shape[-1]) < active, out, 0)
        return Value(out, active)


def _chosen(decision, index, option):
    return index == decision.options.index(option)


def _cut(layers, layer, name, array, collected):
    """The part of a supernet's array that a row's own layer has: active channels, and the kept parts of a concat."""
    if name != "kernel":
        return array[: layer.output_shape[-1]]
    array = array[..., : layer.output_shape[-1]]
    if layer.attributes.get("groups", 1) > 1:
        return array
    source = layer.inputs[0]
    while layers[source].op in ("activation", "batch_norm", "offset", "global_avg_pool", "avg_pool", "max_pool"):
        source = layers[source].inputs[0]
    attributes = layers[source].attributes
    if layers[source].op == "concat" and not all(attributes["kept"]):
        ends = np.cumsum(attributes["widths"])
        parts = zip(ends - attributes["widths"], ends, attributes["kept"], strict=True)
        rows = np.concatenate([np.arange(a, b) for a, b, kept in parts if kept])
        return array[..., rows, :]
    return array[..., : layer.input_shapes[0][-1], :]
