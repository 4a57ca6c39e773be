"""A cost in the loss of a differentiable method: what an architecture drawn from its shares costs in the mean."""

import math
from collections.abc import Callable, Mapping

import jax

from nas.cost import COUNTED, Cost, count_costs
from nas.errors import BadInput
from nas.space import Macro, SearchSpace


def expected_cost(
    strategy: str, space: SearchSpace, macro: Macro, costs: Mapping[str, Cost], name: str
) -> Callable[[jax.Array], jax.Array]:
    """``(shares float32[E, K]) -> float32``, in units of what the cheapest options cost together.

    The unit makes weights of the term mean the same for milliseconds and multiply-accumulates.

    Args:
        strategy: for messages.
        space: whose decisions are edges of its relaxation, one to one.
        macro: of the counted costs.
        costs: tables by name.
        name: which; ``params`` and ``macs`` are counted where no table has that name.

    Raises:
        BadInput: no such cost, one that is no sum, one whose cheapest options cost nothing, or a space whose gates
            are no decisions, such as a cell space with edges between all nodes.
    """
    if name not in costs and name not in COUNTED:
        have = ", ".join([*costs, "params", "macs"])
        raise BadInput(f"{strategy}: no cost '{name}'; there are {have}: give its table, or take cost=macs")
    if space.relaxation.edges != tuple(d.name for d in space.decisions):
        raise BadInput(
            f"{strategy}: a cost needs a gate for each decision; space '{space.name}' has them on edges: leave it out"
        )
    cost = costs[name] if name in costs else count_costs(space, macro)[name]
    if cost.function is not None:
        raise BadInput(f"{strategy}: cost '{name}' is no sum over decisions of '{space.name}', so it has no gradient")
    cheapest = cost.base + sum(float(f.table.min()) for f in cost.factors)
    if not (math.isfinite(cheapest) and cheapest > 0):
        raise BadInput(f"{strategy}: the cheapest options cost {cheapest:g} {name}; there must be more than nothing")
    sizes = space.cardinalities

    def expected(shares):
        return cost.expected([shares[d, :size] for d, size in enumerate(sizes)]) / cheapest

    return expected
