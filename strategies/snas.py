"""SNAS: gates from a concrete distribution, weights and logits trained at once."""

from nas.one_shot import OneShot
from nas.recipe import Recipe
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.gradient import by_gates, cooling, together
from strategies.guards import guarded


def snas(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    hottest: float = 1.0,
    coldest: float = 0.03,
    logit_rate: float | None = None,
    max_skips: int | None = None,
) -> OneShot:
    """One loss on training images, for weights and logits alike; gates are samples of a Gumbel softmax.

    Xie et al., "SNAS: Stochastic Neural Architecture Search", ICLR 2019, without its resource term.

    Args:
        space: between operations.
        macro: frame of the supernet.
        recipe: of the weights.
        steps: of the whole training.
        task: loss.
        hottest: temperature at the start.
        coldest: at the end, reached by equal factors. The paper cools too, and gives no figures; both are ours.
        logit_rate: Adam's learning rate for the logits; see `strategies.gradient.logit_rate_for`.
        max_skips: guard against collapse, see `strategies.guards.guarded`; default 2 in a normal cell.

    Raises:
        BadInput: a temperature out of range.
    """
    method = by_gates(
        space,
        cooling("snas", space.relaxation.allowed, hottest, coldest),
        name="snas",
        arguments={"hottest": hottest, "coldest": coldest, "logit_rate": logit_rate},
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        logit_rate=logit_rate,
        step_of=together,
    )
    return guarded(method, space.relaxation, recipe, max_skips=max_skips)
