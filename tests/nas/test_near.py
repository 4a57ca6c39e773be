"""A view of a space around one architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.near import near
from nas.space import Decision, Macro, SearchSpace, all_rows


def make(allowed_of=None):
    decisions = tuple(Decision(f"d{i}", (0, 1, 2)) for i in range(5))
    return SearchSpace("s", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1), allowed_of=allowed_of)


SPACE, START = make(), np.asarray([1, 0, 2, 1, 1])


def distance(rows):
    return (np.asarray(rows) != START).sum(-1)


@pytest.mark.parametrize("edits", [1, 2, 5])
def test_it_holds_exactly_the_rows_within_reach(edits):
    rows = all_rows(SPACE)
    assert (np.asarray(jax.jit(near(SPACE, START, edits).valid)(rows)) == (distance(rows) <= edits)).all()


def test_samples_change_so_many_decisions_all_alike():
    rows = np.asarray(near(SPACE, START, 2).sample(jax.random.key(0), 6000))
    assert (distance(rows) == 2).all()
    changed = rows != START
    assert np.abs(changed.mean(0) - 2 / 5).max() < 0.03
    for i in range(5):
        others = [np.mean(rows[changed[:, i], i] == o) for o in range(3) if o != START[i]]
        assert np.abs(np.asarray(others) - 0.5).max() < 0.04


def test_mutation_crossover_and_neighbours_stay_within_reach():
    view = near(SPACE, START, 2)
    rows = view.sample(jax.random.key(0), 200)
    mutants = view.mutate(jax.random.key(1), rows)
    assert (distance(mutants) <= 2).all() and (np.asarray(mutants) != rows).any(-1).all()
    uniform = jax.random.uniform(jax.random.key(2), (100, 10))
    assert (distance(jax.jit(jax.vmap(view.cross_from))(uniform, rows[:100], rows[100:])) <= 2).all()
    assert (distance(view.neighbours(np.asarray(rows[0]))) <= 2).all()
    assert len(view.neighbours(START)) == 10


def test_conditions_of_the_space_hold_and_a_start_option_that_no_longer_fits_gives_way():
    """The second decision must differ from the first."""
    space = make(lambda row, i: jnp.arange(3) != row[0] if i == 1 else jnp.ones(3, bool))
    view = near(space, START, 1)
    rows = np.asarray(view.sample(jax.random.key(0), 300))
    assert bool(jax.jit(space.valid)(rows).all()) and bool(jax.jit(view.valid)(rows).all())
    forced = rows[:, 0] == START[1]
    assert forced.any() and (distance(rows)[forced] == 2).all() and (distance(rows)[~forced] <= 1).all()


def test_it_is_the_same_space_to_a_config_and_another_to_a_run_folder():
    from nas.plan import describe_space

    view = near(SPACE, START, 2)
    assert view.fingerprint == SPACE.fingerprint
    assert describe_space(view) == {**describe_space(SPACE), "view": {"near": START.tolist(), "edits": 2}}


@pytest.mark.parametrize("row, edits", [([0] * 4, 1), ([3, 0, 0, 0, 0], 1), (START, 0), (START, 6), (START, 1.5)])
def test_bad_input(row, edits):
    with pytest.raises(BadInput, match=r"^(row|edits)"):
        near(SPACE, row, edits)
