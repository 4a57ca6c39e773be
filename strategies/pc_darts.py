"""PC-DARTS: operations see a part of the channels, and edges have weights of their own."""

import jax
import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput
from nas.mixed import mixed_supernet
from nas.one_shot import OneShot
from nas.recipe import Recipe
from nas.relaxation import Relaxation
from nas.space import Macro, SearchSpace
from nas.train import CLASSIFICATION, Task
from strategies.gradient import alternate, by_gates, logit_rate_for, soft
from strategies.guards import guarded

# Xu et al. 2020, section 4.1: 50 epochs of half of CIFAR-10 in batches of 256
PAPER_RATE, PAPER_STEPS = 6e-4, 50 * 97


def pc_darts(
    space: SearchSpace,
    *,
    macro: Macro,
    recipe: Recipe,
    steps: int,
    task: Task = CLASSIFICATION,
    part: int = 4,
    warmup: float = 0.3,
    logit_rate: float | None = None,
    max_skips: int | None = None,
) -> OneShot:
    """DARTS on 1/K of the channels, with edge normalisation, after a warm-up of the weights.

    Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search", ICLR 2020. What passes
    an operation by is weighted as its edge is. Accuracy with shared weights is that of the network of partial channels.

    Args:
        space: between operations that keep their channels: nasbench201, or the cells of darts, nasnet and amoebanet.
        macro: frame of the supernet; its width is a multiple of `part`.
        recipe: of the weights; the paper's is DARTS's with batch 256 and a learning rate of .1 (here .6, see `darts`).
        steps: of the whole training.
        task: loss.
        part: K; 4 in the paper, 1 leaves edge normalisation alone.
        warmup: share of the training in which the logits stand still; 15 of 50 epochs in the paper. Their gradient is
            computed all the same, for the record of the validation loss.
        logit_rate: Adam's learning rate for the logits; default 6e-4, more in a search shorter than the paper's.
        max_skips: guard against collapse, see `strategies.guards.guarded`; default 2 in a normal cell.

    Raises:
        BadInput: a number out of range, channels that cannot be cut so, or a space whose operations take no part.
    """
    if isinstance(part, bool) or not isinstance(part, int) or part < 1:
        raise BadInput(f"pc_darts: part is {part!r}; it must be a whole number of at least 1")
    if not 0 <= warmup < 1:
        raise BadInput(f"pc_darts: warmup is {warmup!r}; it must be from 0 to below 1")
    relaxation = space.relaxation

    def gate(key, logits, progress):
        return weighted(relaxation, logits)

    def step_of(loss, update_weights, update_logits):
        def step(state, train, valid, key, progress):
            def update(state, gradient):
                new = update_logits(state, gradient)
                return jax.tree.map(lambda old, new: jnp.where(progress < warmup, old, new), state, new)

            return alternate(loss, update_weights, update)(state, train, valid, key, progress)

        return step

    method = by_gates(
        space,
        gate,
        name="pc_darts",
        arguments={"part": part, "warmup": warmup, "logit_rate": logit_rate},
        macro=macro,
        recipe=recipe,
        steps=steps,
        task=task,
        network=mixed_supernet(space, macro, part=part),
        edge_logits=1,
        logit_rate=logit_rate_for(steps, PAPER_RATE, PAPER_STEPS) if logit_rate is None else logit_rate,
        step_of=step_of,
        shares=lambda logits: weighted(relaxation, logits),
    )
    return guarded(method, relaxation, recipe, max_skips=max_skips)


def weighted(relaxation: Relaxation, logits: jax.Array) -> jax.Array:
    """float32[E, K]: a softmax over each edge's operations, times one over the edges of a node (equation 3).

    Args:
        relaxation: of the space.
        logits: float32[E, K + 1], the edge's own last.
    """
    nodes = np.asarray(relaxation.nodes)
    siblings = jnp.where(nodes[:, None] == nodes, logits[:, -1], -jnp.inf)
    return soft(relaxation, logits[:, :-1]) * jnp.diagonal(jax.nn.softmax(siblings, -1))[:, None]
