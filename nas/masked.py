"""Channels by masks instead of slices: what an elastic supernet is compared with in `experiments.bench_elastic`."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from nas.elastic import Shared, _ElasticRun, elastic_supernet, share
from nas.errors import BadInput
from nas.supernet import Elastic, Supernet

if TYPE_CHECKING:
    from nas.space import Macro, SearchSpace


def masked_supernet(space: "SearchSpace", macro: "Macro") -> Supernet:
    """`elastic_supernet` with all channels of the largest ratio computed and masked: what slices are compared with.

    It computes the same, but for kernels, which are the plain centres where weights have no maps; a choice of channels
    must list its options from the smallest to the largest, each of another width.
    """
    elastic, shared = elastic_supernet(space, macro), share(space, macro)

    def apply(weights, stats, x, choice, *, carry=None, train, key=None):
        net = _MaskedRun(space.decisions, choice, weights, stats, x, train, shared)
        out = space.network(net, macro)
        return net.solid(out).array, {**stats, **net.moved}, carry

    return elastic._replace(apply=apply)


class _MaskedRun(_ElasticRun):
    """Runs the branch with most channels, and masks those that the chosen one does not have."""

    def __init__(self, decisions, row, weights, stats, x, train, shared: Shared):
        first = {name: 0 for name, kind in shared.kinds.items() if kind == "resolution"}
        super().__init__(decisions, row, weights, stats, x, train, shared.kernels, first)
        self._shared = shared
        self._chosen: Any = None  # option of the ratio around what is computed

    def _choose(self, decision, cases):
        if self._shared.kinds.get(decision) != "expand":
            return super()._choose(decision, cases)
        outside, self._chosen = self._chosen, self._row[decision]
        with self.scope(decision):
            value = cases[-1][2]()
        self._chosen = outside
        return value

    def _add(self, op, inputs, shape, name, attributes):
        widths = self._shared.widths.get(".".join([*self._path, name]))
        if widths and self._chosen is not None:
            if attributes["features"] != widths[-1]:
                raise BadInput(
                    f"network: the last branch around '{name}' has {attributes['features']} channels, not most"
                )
            active = jnp.asarray(widths, jnp.float32)[jnp.int32(self._chosen)]
            attributes = {**attributes, "features": Elastic(attributes["features"], active)}
        return super()._add(op, inputs, shape, name, attributes)
