"""Important channels first: what a slice of the first channels should hold (Cai et al. 2020, section 3.3)."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from nas.elastic import extreme, share, shared_names
from nas.supernet import PASSING

if TYPE_CHECKING:
    from nas.space import Macro, SearchSpace


class Group(NamedTuple):
    """Channels that must move together.

    Attributes:
        widths: how many of them the slices take, rising.
        holders: layers with an entry for each of these channels on the last axis of their arrays.
        readers: layers whose kernels read them, on the last axis but one.
    """

    widths: tuple[int, ...]
    holders: tuple[str, ...]
    readers: tuple[str, ...]


def channel_groups(space: "SearchSpace", macro: "Macro") -> list[Group]:
    """The groups of channels of an elastic space's largest network that some branch takes a slice of."""
    shared = share(space, macro)
    row = extreme(space, shared.kinds, largest=True)
    layers, names = space.layers(row, macro), shared_names(space, macro, row)
    of: list[int] = []  # layer -> the layer whose channels it has
    same = list(range(len(layers)))  # a forest: channels that are added to one another are one group

    def root(i):
        return i if same[i] == i else root(same[i])

    for i, layer in enumerate(layers):
        depthwise = layer.op == "conv" and layer.attributes["groups"] == layer.attributes["features"] > 1
        passes = layer.op in (*PASSING, "add") or depthwise
        of.append(of[layer.inputs[0]] if passes and layer.inputs else i)
        for other in layer.inputs[1:] if passes else ():
            same[root(of[other])] = root(of[i])
    groups = []
    for source in dict.fromkeys(root(i) for i in of):
        members = [i for i in range(len(layers)) if root(of[i]) == source]
        widths = {shared.widths.get(names[i]) for i in members if of[i] == i}
        found = widths.pop() if len(widths) == 1 else None
        if found is not None:
            readers = [i for i, x in enumerate(layers) if of[i] == i and any(j in members for j in x.inputs)]
            groups.append(Group(found, tuple(names[i] for i in members), tuple(names[i] for i in readers)))
    return groups


def orders(groups: Sequence[Group], weights: Mapping[str, Any], used: int = 1) -> list[jax.Array]:
    """For each group, its channels with the important ones first: int32[C].

    A channel is as important as the sum of absolute weights that read it, of convolutions where there are any, as in
    once-for-all's code. Channels move only between neighbouring widths of the `used` largest, which go on to compute
    what they did.
    """
    found = []
    for group in groups:
        kernels = [weights[name]["kernel"] for name in group.readers]
        dense = [k for k in kernels if k.ndim == 4] or kernels
        by_channel = [jnp.abs(k).sum([a for a in range(k.ndim) if a != k.ndim - 2]) for k in dense]
        score = jnp.stack(by_channel).sum(0)
        ends = (0, *group.widths[-used:])
        parts = [a + jnp.argsort(-score[a:b], stable=True) for a, b in itertools.pairwise(ends)]
        found.append(jnp.concatenate(parts))
    return found


def reorder(groups: Sequence[Group], found: Sequence[jax.Array], tree: Any) -> Any:
    """A pytree with dictionaries by layer name in it (weights, statistics, moments), its channels in another order."""
    names = {name for group in groups for name in (*group.holders, *group.readers)}

    def move(entry):
        if not isinstance(entry, dict):
            return entry
        entry = {name: dict(arrays) if isinstance(arrays, dict) else arrays for name, arrays in entry.items()}
        for group, order in zip(groups, found, strict=True):
            for name in group.holders:
                for array in set(entry.get(name, ())) & {"kernel", "bias", "scale", "mean", "var"}:
                    entry[name][array] = jnp.take(entry[name][array], order, -1)
            for name in group.readers:
                if "kernel" in entry.get(name, ()):
                    entry[name]["kernel"] = jnp.take(entry[name]["kernel"], order, -2)
        return entry

    return jax.tree.map(move, tree, is_leaf=lambda t: isinstance(t, dict) and not names.isdisjoint(t))
