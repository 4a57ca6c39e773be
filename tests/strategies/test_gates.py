"""The gates of the differentiable methods against closed forms, over many draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.cost import Cost, Factor, Stamp
from nas.space import Decision, Macro, SearchSpace
from strategies.drnas import dirichlet
from strategies.expected_cost import expected_cost
from strategies.gradient import gumbel_softmax
from strategies.proxylessnas import two_paths

ALLOWED = np.asarray([[True, True, True], [True, True, False]])
LOGITS = jnp.asarray([[0.5, -0.4, 1.0], [0.3, -0.2, 9.0]])
SHARES = np.asarray(jax.nn.softmax(jnp.where(ALLOWED, LOGITS, -jnp.inf), -1))
KEYS = jax.random.split(jax.random.key(0), 20_000)


@pytest.mark.parametrize("temperature", [0.1, 5.0])
def test_the_largest_gumbel_gate_is_drawn_with_the_probability_of_its_logit(temperature):
    gates = np.asarray(jax.vmap(lambda key: gumbel_softmax(key, LOGITS, ALLOWED, temperature))(KEYS))
    np.testing.assert_allclose(gates.sum(-1), 1, rtol=1e-5)
    assert not gates[:, ~ALLOWED].any()
    drawn = np.eye(3)[gates.argmax(-1)].mean(0)
    np.testing.assert_allclose(drawn, SHARES, atol=0.015)


def test_dirichlet_gates_have_its_mean_and_its_means_slope():
    concentration = jnp.asarray([[0.5, 1.0, 2.0], [3.0, 1.0, 1.0]])

    def mean(concentration):
        return jax.vmap(lambda key: dirichlet(key, concentration, ALLOWED))(KEYS[:4000]).mean(0)

    there = np.where(ALLOWED, concentration, 0)
    total = there.sum(-1, keepdims=True)
    np.testing.assert_allclose(mean(concentration), there / total, atol=0.02)
    slope = jax.grad(lambda c: mean(c)[0, 0])(concentration)[0]
    wanted = (np.asarray([total[0, 0], 0, 0]) - there[0, 0]) / total[0, 0] ** 2  # of c0 / (c0 + c1 + c2)
    np.testing.assert_allclose(slope, wanted, atol=0.02)


def test_of_two_paths_one_is_open_and_both_learn():
    gates = np.asarray(jax.vmap(lambda key: two_paths(key, LOGITS, ALLOWED))(KEYS))
    assert set(np.unique(gates.round(6))) == {0.0, 1.0}
    p = SHARES[0]
    wanted = np.zeros(3)
    for i, j in itertools.permutations(range(3), 2):
        pair = p[i] * p[j] / (1 - p[i])  # i is drawn, then j of what is left
        wanted += pair * np.eye(3)[i] * p[i] / (p[i] + p[j]) + pair * np.eye(3)[j] * p[j] / (p[i] + p[j])
    np.testing.assert_allclose(gates[:, 0].mean(0), wanted, atol=0.015)
    worth = jnp.asarray([[1.0, 2.0, 4.0], [1.0, 2.0, 0.0]])  # what an open gate adds to the loss
    slope = jax.grad(lambda logits: (two_paths(KEYS[0], logits, ALLOWED) * worth).sum())(LOGITS)
    np.testing.assert_allclose(slope.sum(-1), 0, atol=1e-6)
    assert (np.asarray(slope) != 0).sum(-1).tolist() == [2, 2]
    q = SHARES[1]
    np.testing.assert_allclose(slope[1, 1], q[0] * q[1] * (2.0 - 1.0), rtol=1e-5)


def test_the_expected_cost_is_the_mean_over_draws_in_units_of_the_cheapest():
    space = SearchSpace("toy", (Decision("a", (0, 1, 2)), Decision("b", (0, 1))), None, Macro(1, 1, (1, 1, 1), 1))
    table = np.asarray([[1.0, 3.0], [2.0, 7.0], [5.0, 4.0]])
    cost = Cost(Stamp("latency", "ms", "", "", 1, "", {}, ""), 3.0, (Factor((0, 1), table),), None, space.fingerprint)
    expected = expected_cost("fbnet", space, space.macro, {"latency": cost}, "latency")
    wanted = (3 + SHARES[0] @ table @ SHARES[1, :2]) / 4
    np.testing.assert_allclose(expected(jnp.asarray(SHARES)), wanted, rtol=1e-6)
