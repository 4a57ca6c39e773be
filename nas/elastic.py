"""The elastic supernet: the branches of a choice share weights, and each takes its slice of the largest.

Cai, Gan, Wang, Zhang and Han, "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020;
slices of channels are from Yu et al., "Slimmable Neural Networks", ICLR 2019.
"""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nas.builder import LayerBuilder
from nas.errors import BadInput
from nas.layers import Layer, Shape
from nas.network import init_layers, trains
from nas.supernet import Supernet, _Collect, _Run
from nas.switch import switch

if TYPE_CHECKING:
    from nas.space import Decision, Macro, Row, SearchSpace

# what a decision may change
KINDS = ("kernel", "depth", "expand", "width", "resolution")


class Shared(NamedTuple):
    """What the branches of a space share.

    Attributes:
        layers: by shared name, those that hold arrays as large as they get.
        kernels: name -> sides that its kernel takes, falling; those of one size alone are absent.
        widths: name -> numbers of features that it takes by slices, rising; those of one width alone are absent.
        kinds: decision -> one of `KINDS`, as the space's network uses it; others, such as activations, are absent.
    """

    layers: dict[str, Layer]
    kernels: dict[str, tuple[int, ...]]
    widths: dict[str, tuple[int, ...]]
    kinds: dict[str, str]


def elastic_supernet(space: "SearchSpace", macro: "Macro", *, transforms: bool = True) -> Supernet:
    """The supernet of a space whose branches share weights, as once-for-all's do.

    Layers of different branches are one where their names agree once the options are left out of them. The stored
    array is the largest; a branch takes its first channels and the centre of its kernel. All slices are static, behind
    a `switch`, so a small network costs what it costs alone, and no row compiles anything. Widths that pass from layer
    to layer (``net.width``) are masked as in `nas.supernet.choice_supernet`. `init` draws for the largest network.

    A row that is known while the program is traced (numpy, no argument of it) fixes the resolution; for one that is
    not, the program holds a network of each resolution side by side.

    Args:
        space: of the rows.
        macro: the frame.
        transforms: a smaller kernel is the centre of the next larger one after a linear map over its positions, one
            map a layer, shared by its channels (the paper, section 3.3). Stored is what the map adds to the identity,
            nothing at first, so that weight decay leads back to the plain centre. False: always the plain centre.

    Raises:
        BadInput: layers of one name that are different operations, grouped convolutions of different widths, or cells.
    """
    shared = share(space, macro)
    sided = [i for i, d in enumerate(space.decisions) if shared.kinds.get(d.name) == "resolution"]

    def init(key, row=None):
        weights, stats = init_layers(list(shared.layers.values()), key)
        for name, sides in shared.kernels.items() if transforms else ():
            weights[name] |= {_map(side): jnp.zeros((side**2, side**2)) for side in sides[1:]}
        return weights, stats

    def run(weights, stats, x, choice, train, sides):
        net = _ElasticRun(space.decisions, choice, weights, stats, x, train, shared.kernels, sides)
        out = space.network(net, macro)
        return net.solid(out).array, {**stats, **net.moved}

    def apply(weights, stats, x, choice, *, carry=None, train, key=None):
        names = [space.decisions[i].name for i in sided]
        if isinstance(choice, jax.core.Tracer):
            cases = list(itertools.product(*(range(space.cardinalities[i]) for i in sided)))
        else:
            cases = [tuple(int(choice[i]) for i in sided)]
        sides = [dict(zip(names, case, strict=True)) for case in cases]
        if len(sides) == 1:
            return *run(weights, stats, x, choice, train, sides[0]), carry
        place = jnp.int32(0)
        for i in sided:
            place = place * space.cardinalities[i] + choice[i]
        runs = [lambda weights, stats, s=s: run(weights, stats, x, choice, train, s) for s in sides]
        return *switch(place, runs, weights, stats), carry

    def extract(weights, stats, row):
        own_weights: dict = {}
        own_stats: dict = {}
        for own, name in zip(space.layers(row, macro), shared_names(space, macro, row), strict=True):
            if trains(own):
                cut = sliced(weights.get(name, {}), own, shared.kernels.get(name, ()))
                own_weights |= {own.name: cut} if cut else {}
                kept = {n: a[: own.output_shape[-1]] for n, a in stats.get(name, {}).items()}
                own_stats |= {own.name: kept} if kept else {}
        return own_weights, own_stats

    return Supernet(init, apply, extract, tuple(shared.layers.values()))


def sliced(arrays: Mapping[str, jax.Array], layer: Layer, sides: tuple[int, ...] = ()) -> dict[str, jax.Array]:
    """What a layer takes of the arrays that are stored under its shared name; `sides` as in `Shared.kernels`."""
    features = layer.output_shape[-1]
    found = {n: a[..., :features] for n, a in arrays.items() if n in ("bias", "scale", "gate")}
    if "kernel" not in arrays:
        return found
    channels = layer.input_shapes[0][-1] // layer.attributes.get("groups", 1)
    kernel = arrays["kernel"][..., :channels, :features]
    for side in sides[1:]:
        if side < layer.attributes["kernel"][0]:
            break
        off = (kernel.shape[0] - side) // 2
        kernel = kernel[off : off + side, off : off + side]
        if _map(side) in arrays:
            kernel = kernel + (arrays[_map(side)] @ kernel.reshape(side**2, -1)).reshape(kernel.shape)
    return {"kernel": kernel} | found


def share(space: "SearchSpace", macro: "Macro") -> Shared:
    """Walks every branch of a space's network; raises as `elastic_supernet` does."""
    net = _Share(macro.input, space.decisions, None)
    space.network(net, macro)
    layers: dict[str, Layer] = {}
    kernels: dict[str, set[tuple[int, int]]] = {}
    widths: dict[str, set[int]] = {}
    for layer in net.finish_all():
        layers[layer.name] = _largest(layers.get(layer.name, layer), layer) if trains(layer) else layer
        if layer.op == "conv":
            kernels.setdefault(layer.name, set()).add(layer.attributes["kernel"])
        if "features" in layer.attributes:
            widths.setdefault(layer.name, set()).add(int(layer.attributes["features"]))
    sides = {
        name: tuple(sorted((k[0] for k in found), reverse=True)) for name, found in kernels.items() if len(found) > 1
    }
    for name in sides:
        if bad := next((k for k in kernels[name] if k[0] != k[1] or k[0] % 2 == 0), None):
            raise BadInput(f"network: '{name}' takes a kernel of {bad[0]}x{bad[1]}; elastic ones are square and odd")
    several = {name: tuple(sorted(found)) for name, found in widths.items() if len(found) > 1}
    return Shared(layers, sides, several, net.kinds)


def extreme(space: "SearchSpace", kinds: Mapping[str, str], largest: bool) -> np.ndarray:
    """int32[L]: the row whose elastic decisions (`Shared.kinds`) are the largest, or the smallest, there are.

    Raises:
        BadInput: an elastic decision whose options have no order.
    """
    row = np.zeros(space.length, np.int32)
    for i, decision in enumerate(space.decisions):
        if decision.name in kinds:
            row[i] = ranked(decision)[-1 if largest else 0]
    return np.asarray(space.settle(row, jnp.zeros(space.length)))


def ranked(decision: "Decision") -> list[int]:
    """Places of a decision's options, from the smallest to the largest; raises as `extreme` does."""
    if any(isinstance(o, bool) or not isinstance(o, int | float) for o in decision.options):
        raise BadInput(f"decision '{decision.name}': elastic options must be numbers, not {list(decision.options)}")
    return sorted(range(len(decision.options)), key=decision.options.__getitem__)


def shared_names(space: "SearchSpace", macro: "Macro", row: "Row") -> list[str]:
    """The shared name of each layer of a row's own network, in the order of `SearchSpace.layers`."""
    net = _Names(macro.input, space.decisions, [int(i) for i in row])
    return [layer.name for layer in net.finish(space.network(net, macro))]


def _map(side):
    return f"to_{side}"


def _kind(layer):
    """What layers of one name must agree in: their operation, and all that is neither a width nor a kernel's size."""
    a = dict(layer.attributes)
    width = a.pop("features", None)
    if layer.op == "conv":
        a.pop("kernel")
        depthwise = a["groups"] == width == layer.input_shapes[0][-1]
        # a slice of a grouped convolution would deal its channels out anew
        a["groups"] = "each" if depthwise else a["groups"] if a["groups"] == 1 else (a["groups"], int(width))
    return layer.op, tuple(sorted(a.items()))


def _largest(one: Layer, other: Layer) -> Layer:
    if _kind(one) != _kind(other):
        raise BadInput(
            f"network: '{one.name}' is {one.op} {dict(one.attributes)} in one branch and {other.op} "
            f"{dict(other.attributes)} in another; layers that share weights must be of one kind"
        )
    a, b = one.attributes, other.attributes
    channels = max(one.input_shapes[0][-1], other.input_shapes[0][-1])
    attributes = dict(a)
    if "features" in a:
        attributes["features"] = max(a["features"], b["features"])
    if "kernel" in a:
        attributes |= {"kernel": max(a["kernel"], b["kernel"]), "groups": max(a["groups"], b["groups"])}
    width = max(one.output_shape[-1], other.output_shape[-1])
    shapes = ((*one.input_shapes[0][:-1], channels),)
    return replace(one, attributes=attributes, input_shapes=shapes, output_shape=(*one.output_shape[:-1], width))


class _Flat:
    """Layers of a choice are named under its decision, without the option."""

    def nodes(self, edges, body, inputs, *, stride=1):
        raise BadInput("network: cells (net.nodes) cannot share weights between their operations; use another strategy")

    def concat(self, xs, *, keep=None, name="concat"):
        raise BadInput(f"network: '{name}' joins channels, and slices of those would not stay in place")


class _Names(_Flat, LayerBuilder):
    """The layers of one row under their shared names."""

    def _choose(self, decision, cases):
        option = self._decisions[decision].options[self._row[decision]]
        with self.scope(decision):
            return next(branch for options, _, branch in cases if option in options)()


class _Share(_Flat, _Collect):
    """Walks every branch, and sees what each decision changes."""

    def __init__(self, input_shape: Shape, decisions, row):
        super().__init__(input_shape, decisions, row)
        self.kinds: dict[str, str] = {}

    def _choose(self, decision, cases):
        results, walks = [], []
        for _, _, branch in cases:
            first = len(self._layers)
            with self.scope(decision):
                results.append(branch())
            walks.append(self._layers[first:])
        if len({self.shape(r) for r in results}) > 1 and len({self.shape(r)[2:] for r in results}) == 1:
            self.kinds[decision] = "resolution"
            return max(results, key=self.shape)
        for kind, attribute in (("kernel", "kernel"), ("expand", "features")):
            if _varies(walks, attribute):
                self.kinds[decision] = kind
                break
        return self._alike(results, f"choice '{decision}'")

    def chosen(self, decision, option):
        self.kinds.setdefault(decision, "depth")
        return super().chosen(decision, option)

    def width(self, decision, of=int):
        self.kinds[decision] = "width"
        return super().width(decision, of)


def _varies(walks, attribute):
    """Whether a layer of one name has other values in another branch; some branches may not have it at all."""
    seen: dict[str, set[frozenset]] = {}
    for walk in walks:
        values: dict[str, set] = {}  # several where a choice inside decides
        for layer in walk:
            if attribute in layer.attributes:
                values.setdefault(layer.name, set()).add(layer.attributes[attribute])
        for name, found in values.items():
            seen.setdefault(name, set()).add(frozenset(found))
    return any(len(found) > 1 for found in seen.values())


class _ElasticRun(_Flat, _Run):
    """Computes on slices; the row is data, but for the sides of images."""

    def __init__(self, decisions, row, weights, stats, x, train, kernels, sides: Mapping[str, int]):
        super().__init__(decisions, row, weights, stats, x, train)
        self._kernels, self._sides = kernels, sides

    def _choose(self, decision, cases):
        table = self._case_of(decision, cases)
        if decision in self._sides:
            with self.scope(decision):
                return cases[table[self._sides[decision]]][2]()
        index = jnp.asarray(table, jnp.int32)[jnp.int32(self._row[decision])]
        return self._switch(index, decision, [("", branch) for _, _, branch in cases])

    def _arrays(self, layer):
        weights, stats = super()._arrays(layer)
        if not trains(layer):
            return weights, stats
        own_stats = None if stats is None else {n: a[: layer.output_shape[-1]] for n, a in stats.items()}
        return sliced(weights, layer, self._kernels.get(layer.name, ())), own_stats

    def _whole(self, layer, moved):
        if not trains(layer):
            return moved
        return {n: self.stats[layer.name][n].at[: a.shape[0]].set(a) for n, a in moved.items()}
