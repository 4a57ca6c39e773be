"""Guards against collapse, against closed forms and planted collapses."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.data import DeviceSplit
from nas.errors import BadInput
from nas.one_shot import OneShot
from nas.recipe import Recipe
from search_spaces import darts, nasbench201
from strategies.gradient import soft
from strategies.guards import (
    dominant_eigenvalue,
    guarded,
    limit_skips,
    most_skips,
    perturbed,
    sharpens,
    skips_of,
)

CELL, SKIP, CONV = nasbench201().relaxation, 1, 3
NOTHING = DeviceSplit(jnp.zeros((4, 1, 1, 1)), jnp.zeros(4, jnp.int32), jnp.zeros(1), jnp.ones(1))


def logits(*operations):
    """As if trained: the first edges are surest."""
    return jnp.zeros((6, 5)).at[jnp.arange(6), jnp.asarray(operations)].set(2.0 - 0.1 * jnp.arange(6))


class Own(NamedTuple):
    weights: Any
    stats: Any
    logits: jax.Array


def follow(path, relaxation=CELL, **settings):
    """A method whose logits after each epoch are those of `path`, guarded: (events, epochs, what is found)."""
    method = OneShot(
        lambda key: Own({}, {}, path[0]),
        lambda state, train, valid, key, progress: (state, {}),
        None,
        None,
        lambda state: soft(relaxation, state.logits),
        lambda state: (state.weights, state.stats),
        settings.pop("network", None),
        "planted",
        {},
    )
    method = guarded(method, relaxation, Recipe(epochs=len(path), batch=4), **settings)
    state, events, stop = method.init(jax.random.key(0)), [], False
    for epoch, now in enumerate(path, 1):
        state = state._replace(own=state.own._replace(logits=now))
        state, found, stop = method.after_epoch(state, epoch, NOTHING)
        events += found
        if stop:
            break
    return events, epoch, np.asarray(method.derive(state, NOTHING, jax.random.key(0))[0]).tolist()


def test_more_skips_than_half_of_the_edges_end_the_search_at_the_epoch_before():
    fine, collapsed = logits(SKIP, SKIP, SKIP, CONV, CONV, 2), logits(*[SKIP] * 4, CONV, CONV)
    events, epoch, found = follow([logits(*[CONV] * 6), fine, collapsed, collapsed])
    assert epoch == 3
    assert found == [SKIP, SKIP, SKIP, CONV, CONV, 2]
    assert [(e["event"], e["guard"]) for e in events] == [("guard", "skips")]
    assert (
        "4 skip connections after epoch 3, more than 3; the search ends with the logits of epoch 2" in events[0]["why"]
    )


def test_where_no_epoch_was_fine_the_weakest_skips_are_left_out_in_the_end():
    all_skips = logits(*[SKIP] * 6).at[:, CONV].add(0.5)
    events, epoch, found = follow([all_skips] * 3)
    assert epoch == 3
    assert found == [SKIP] * 3 + [CONV] * 3
    assert [e["guard"] for e in events] == ["skips"]


def test_a_limit_of_all_edges_switches_it_off():
    events, epoch, found = follow([logits(*[CONV] * 6), logits(*[SKIP] * 6)], max_skips=6)
    assert (events, epoch, found) == ([], 2, [SKIP] * 6)


def test_in_a_cell_space_the_normal_cell_counts_and_two_are_allowed():
    space = darts(nodes=3, operations=("skip_connect", "sep_conv_3x3"))
    relaxation = space.relaxation
    assert most_skips(relaxation, None) == 2
    row = np.asarray([0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 1, 1] + [0, 0, 1, 0] * 3)
    gates = np.asarray(relaxation.gates(row), np.float32) + 0.01 * np.arange(18)[:, None] * (relaxation.gates(row) > 0)
    assert skips_of(relaxation, gates) == 4
    found = limit_skips(relaxation, gates + 0.001, 2)
    assert skips_of(relaxation, found) == 2
    decoded = space.decode(relaxation.discretise(jnp.asarray(found)))
    assert [decoded[f"normal_3_{pair}_op"] for pair in "ab"] == ["skip_connect"] * 2  # the stronger two stay
    assert all(v == "skip_connect" for k, v in decoded.items() if k.startswith("reduce") and k.endswith("_op"))


def test_what_counts_is_the_architecture_that_would_be_derived():
    relaxation = darts(nodes=2, operations=("skip_connect", "sep_conv_3x3")).relaxation
    sure = jnp.zeros((10, 3)).at[:, 2].set(3.0)
    # of node 3, whose edges are 2 to 4: the largest logits are those of a convolution that is sure of nothing
    unsure = sure.at[2].set(jnp.asarray([3.9, 3.9, 4.0])).at[3].set(jnp.asarray([-2.0, 1.0, -2.0]))
    assert skips_of(relaxation, unsure) == 0
    assert skips_of(relaxation, soft(relaxation, unsure)) == 1
    events, epoch, found = follow([sure, unsure, unsure], relaxation, max_skips=0)
    assert epoch == 2 and [e["guard"] for e in events] == ["skips"]
    assert skips_of(relaxation, relaxation.gates(np.asarray(found))) == 0


def test_the_eigenvalue_is_that_of_a_quadratic():
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    hessian = jnp.asarray(turned @ np.diag([-5.0, 2.0, 1.0, 0.5, 0.1, 0.0]) @ turned.T, jnp.float32)

    def loss(logits):
        flat = logits.ravel()
        return 0.5 * flat @ hessian @ flat + flat.sum()

    found = jax.jit(lambda at, key: dominant_eigenvalue(loss, at, key))(jnp.ones((2, 3)), jax.random.key(1))
    np.testing.assert_allclose(found, -5.0, rtol=1e-3)  # the largest in size, with its sign
    flat = dominant_eigenvalue(lambda logits: logits.sum(), jnp.ones((2, 3)), jax.random.key(1))
    np.testing.assert_allclose(flat, 0, atol=1e-5)


@pytest.mark.parametrize(("values", "stops"), [([1.0] * 5 + [1.3] * 5, False), ([1.0] * 5 + [1.4] * 5, True)])
def test_it_stops_where_the_smoothed_eigenvalue_grows_by_a_third_in_five_epochs(values, stops):
    assert sharpens(np.asarray(values), 0.75) == stops  # 1 / 1.3 = .77, 1 / 1.4 = .71
    assert not sharpens(np.asarray(values[1:]), 0.75)  # too short to say


class Sharp(NamedTuple):
    """A network whose loss has a known curvature: its output is `weights` times the first gate."""

    def apply(self, weights, stats, x, gates, *, train):
        return jnp.zeros((len(x), 2)).at[:, 0].set(stats["scale"] * gates[0, 0]), stats, None


def test_an_eigenvalue_that_grows_ends_the_search_five_epochs_back():
    path = [logits(*[CONV] * 5, k % 3 + 2) for k in range(12)]
    method = OneShot(
        lambda key: Own({}, {"scale": jnp.float32(1)}, path[0]),
        lambda state, train, valid, key, progress: (state, {}),
        *(None, None),
        lambda state: soft(CELL, state.logits),
        lambda state: (state.weights, state.stats),
        *(Sharp(), "planted", {}),
    )
    method = guarded(method, CELL, Recipe(epochs=12, batch=4), eigenvalue=0.75)
    state, seen = method.init(jax.random.key(0)), []
    for epoch, now in enumerate(path, 1):
        scale = jnp.float32(1.0 if epoch < 9 else 40.0)
        state = state._replace(own=state.own._replace(logits=now, stats={"scale": scale}))
        state, events, stop = method.after_epoch(state, epoch, NOTHING)
        seen += events
        if stop:
            break
    assert epoch == 10  # two windows of five are full, and the new one has the steep epochs 9 and 10
    assert [e["guard"] for e in seen] == ["eigenvalue"]
    np.testing.assert_array_equal(state.own.logits, path[4])


def test_noise_on_gates_grows_and_stays_off_what_an_edge_does_not_have():
    allowed = np.asarray([[True, True, True], [True, True, False]])
    gate = lambda key, logits, progress: jnp.where(allowed, 0.5, 0.0)  # noqa: E731
    noisy = perturbed(gate, allowed, 0.3)
    keys = jax.random.split(jax.random.key(0), 400)
    for progress, reach in [(0.0, 0.03), (1.0, 0.3)]:
        found = np.asarray(jax.vmap(lambda key, p=progress: noisy(key, None, p))(keys))
        off = np.abs(found - 0.5)[:, allowed]
        assert 0.95 * reach < off.max() <= reach + 1e-6
        assert not found[:, ~allowed].any()


@pytest.mark.parametrize("bad", [-1, 1.5, True])
def test_limits_that_are_none_are_refused(bad):
    with pytest.raises(BadInput, match="max_skips is"):
        most_skips(CELL, bad)
