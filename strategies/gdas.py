"""GDAS: one sampled operation on each edge, with gradients straight through the sampling."""

import jax

from nas.mixed import Hard
from nas.one_shot import OneShot
from nas.recipe import Recipe
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.gradient import by_gates, gumbel_softmax
from strategies.guards import guarded


def gdas(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    hottest: float = 10.0,
    coldest: float = 0.1,
    logit_rate: float | None = None,
    max_skips: int | None = None,
) -> OneShot:
    """Gumbel-max samples an operation for each edge; its gate is 1 forwards, and backwards that of a Gumbel softmax.

    Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours", CVPR 2019. An edge costs one
    operation instead of all of them. The gradient of the operations that were not taken is left out, which the
    paper's code adds as a constant.

    Args:
        space: between operations.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        task: loss.
        hottest: temperature at the start; 10 in the paper.
        coldest: at the end, reached linearly; .1 in the paper.
        logit_rate: Adam's learning rate for the logits; default 3e-4, more in a search shorter than the paper's.
        max_skips: guard against collapse, see `strategies.guards.guarded`; default 2 in a normal cell.
    """
    allowed = space.relaxation.allowed

    def gate(key, logits, progress):
        temperature = hottest + (coldest - hottest) * progress
        shares = gumbel_softmax(key, logits, allowed, temperature)
        index = shares.argmax(-1)
        one = jax.nn.one_hot(index, logits.shape[1])
        return Hard(index, one + shares - jax.lax.stop_gradient(shares))

    method = by_gates(
        space,
        gate,
        name="gdas",
        arguments={"hottest": hottest, "coldest": coldest, "logit_rate": logit_rate},
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        logit_rate=logit_rate,
    )
    return guarded(method, space.relaxation, recipe, max_skips=max_skips)
