"""The controller's distribution over rows, against every row of small spaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace, all_rows
from strategies.controller import controller


def allowed(row, i):
    """The second decision is inactive unless the first is 1; the third has two options of three after an odd one."""
    if i == 1:
        return jnp.where(row[0] == 1, jnp.ones(4, bool), jnp.arange(4) == 0)
    return (jnp.arange(4) < 2) | (row[1] % 2 == 0) if i == 2 else jnp.ones(4, bool)


SPACE = SearchSpace(
    "conditional",
    tuple(Decision(f"d{i}", tuple(range(k))) for i, k in enumerate((2, 4, 3))),
    lambda net, macro: net.input,
    Macro(1, 1, (1, 1, 1), 1),
    allowed_of=allowed,
)
ROWS = all_rows(SPACE)
VALID = np.asarray(SPACE.valid(ROWS))
CONTROL = controller(SPACE, hidden=8)
READ, DRAW = jax.jit(CONTROL.read), jax.jit(CONTROL.draw)


@pytest.fixture(scope="module")
def weights():
    """As if trained: nothing is zero."""
    leaves, tree = jax.tree.flatten(CONTROL.init(jax.random.key(0)))
    random = np.random.RandomState(0)
    return jax.tree.unflatten(tree, [leaf + random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])


def test_probabilities_of_all_allowed_rows_sum_to_one(weights):
    probability = np.exp(np.asarray(READ(weights, ROWS).log_prob))
    assert probability[VALID].sum() == pytest.approx(1, abs=1e-5)
    assert (probability[~VALID] == 0).all()
    assert probability[VALID].std() > 0.01  # and they are not all the same


def test_entropy_is_that_over_all_rows(weights):
    read = READ(weights, ROWS[VALID])
    log_prob = np.asarray(read.log_prob)
    over_rows = -(np.exp(log_prob) * log_prob).sum()
    assert (np.exp(log_prob) * np.asarray(read.entropy)).sum() == pytest.approx(over_rows, rel=1e-5)


def test_rows_are_drawn_as_often_as_their_probability_says(weights):
    drawn = DRAW(weights, jax.random.split(jax.random.key(1), 20_000))
    strides = np.asarray([12, 3, 1])
    share = np.bincount(np.asarray(drawn.row) @ strides, minlength=len(ROWS)) / 20_000
    probability = np.exp(np.asarray(READ(weights, ROWS).log_prob))
    spread = np.sqrt(probability * (1 - probability) / 20_000)
    assert (np.abs(share - probability) <= 5 * spread).all()


def test_what_is_drawn_reads_back_alike(weights):
    drawn = DRAW(weights, jax.random.split(jax.random.key(2), 50))
    read = READ(weights, drawn.row)
    assert (np.asarray(read.row) == np.asarray(drawn.row)).all()
    np.testing.assert_allclose(read.log_prob, drawn.log_prob, rtol=1e-5)
    np.testing.assert_allclose(read.entropy, drawn.entropy, rtol=1e-5)


def test_a_new_controller_draws_as_random_search_does():
    """Each decision is uniform over what is allowed after the earlier ones."""
    read = READ(CONTROL.init(jax.random.key(3)), ROWS[VALID])
    free = [[np.asarray(SPACE.allowed(jnp.asarray(row), i)).sum() for i in range(3)] for row in ROWS[VALID]]
    np.testing.assert_allclose(np.exp(read.log_prob), 1 / np.prod(free, axis=1), rtol=1e-5)


def test_the_program_does_not_grow_with_the_decisions():
    """A loop over decisions, not a copy of the cell for each: large spaces compile as fast as small ones."""

    def dots(length):
        decisions = tuple(Decision(f"d{i}", (0, 1, 2)) for i in range(length))
        space = SearchSpace("s", decisions, SPACE.network, SPACE.macro, allowed_of=lambda row, i: jnp.ones(3, bool))
        control = controller(space, hidden=4)
        rows = jnp.zeros((2, length), jnp.int32)
        return str(jax.make_jaxpr(control.read)(control.init(jax.random.key(0)), rows)).count("dot_general")

    assert dots(3) == dots(40) > 0


def test_bad_sizes():
    with pytest.raises(BadInput, match="controller: hidden is 0"):
        controller(SPACE, hidden=0)
