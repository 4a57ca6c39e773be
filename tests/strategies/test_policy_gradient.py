"""What REINFORCE and PPO promise, each against another way to compute it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nas.errors import BadInput
from nas.space import Decision, Macro, SearchSpace
from strategies import ppo, reinforce
from strategies.controller import controller
from strategies.policy_gradient import Results, share_beaten
from strategies.ppo import ppo_loss
from strategies.reinforce import reinforce_loss


def make_space(*cardinalities):
    decisions = tuple(Decision(f"d{i}", tuple(range(k))) for i, k in enumerate(cardinalities))
    return SearchSpace("toy", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1))


SPACE = make_space(3, 4, 3)
WEIGHTS = np.random.RandomState(0).uniform(size=(3, 4)).astype(np.float32)
SMALL = dict(hidden=8, batch=4, in_flight=16)
STRATEGIES = {name: factory(SPACE, **SMALL) for name, factory in (("reinforce", reinforce), ("ppo", ppo))}
JITTED = {name: (jax.jit(s.ask, static_argnums=1), jax.jit(s.tell)) for name, s in STRATEGIES.items()}


def additive(rows):
    return jnp.asarray(WEIGHTS)[jnp.arange(3), rows].sum(-1)


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state._replace(key=jnp.zeros(())))]


def test_reinforce_gradient_of_one_decision_is_the_closed_form():
    """With logits b and probabilities p: d log p(a) / d b = 1[a] - p, and d H / d b = -p (log p + H)."""
    control = controller(make_space(4), hidden=5)
    weights = control.init(jax.random.key(0))
    weights["bias"][...] = jnp.asarray([[0.3, -0.7, 1.1, 0.2]])
    rows, advantage, bonus = jnp.asarray([[2], [0], [2], [3], [1]]), np.asarray([0.5, -1.0, 0.2, 0.9, -0.1]), 0.3

    def loss(weights):
        read = control.read(weights, rows)
        return reinforce_loss(read.log_prob, jnp.asarray(advantage, jnp.float32), read.entropy, bonus)

    found = np.asarray(jax.grad(loss)(weights)["bias"][...])[0]
    b = np.asarray([0.3, -0.7, 1.1, 0.2])
    p = np.exp(b) / np.exp(b).sum()
    entropy = -(p * np.log(p)).sum()
    of_log_prob = (advantage[:, None] * (np.eye(4)[np.asarray(rows)[:, 0]] - p)).mean(0)
    np.testing.assert_allclose(found, -(of_log_prob + bonus * -p * (np.log(p) + entropy)), atol=1e-6)


def test_gradient_through_the_cell_is_that_of_finite_differences():
    control = controller(SPACE, hidden=4)
    leaves, tree = jax.tree.flatten(control.init(jax.random.key(0)))
    random = np.random.RandomState(1)
    weights = jax.tree.unflatten(tree, [leaf + 0.3 * random.normal(size=leaf.shape) for leaf in leaves])
    direction = jax.tree.unflatten(tree, [jnp.asarray(random.normal(size=leaf.shape), jnp.float32) for leaf in leaves])
    rows, advantage = jnp.asarray([[0, 3, 1], [2, 1, 2]]), jnp.asarray([1.0, -0.5])

    @jax.jit
    def loss(weights):
        read = control.read(weights, rows)
        return reinforce_loss(read.log_prob, advantage, read.entropy, 0.1)

    dot = sum((a * b).sum() for a, b in zip(*map(jax.tree.leaves, (jax.grad(loss)(weights), direction)), strict=True))
    moved = [loss(jax.tree.map(lambda w, d, s=s: w + s * d, weights, direction)) for s in (1e-2, -1e-2)]
    assert float(dot) == pytest.approx(float(moved[0] - moved[1]) / 2e-2, rel=1e-2)


def test_clipped_objective_is_that_of_numpy():
    random = np.random.RandomState(0)
    now, drawn, advantage, entropy = random.normal(size=(4, 50)).astype(np.float32)
    total = 0.0
    for n, d, a, h in zip(now, drawn, advantage, entropy, strict=True):
        ratio = np.exp(n - d)
        within = min(max(ratio, 0.8), 1.2)
        total += min(ratio * a, within * a) + 0.05 * h
    found = ppo_loss(*map(jnp.asarray, (now, drawn, advantage, entropy)), 0.2, 0.05)
    assert float(found) == pytest.approx(-total / 50, rel=1e-5)


def test_a_row_that_has_moved_far_enough_is_not_pushed_further():
    push = jax.grad(lambda now, advantage: ppo_loss(now, jnp.zeros(1), advantage, jnp.zeros(1), 0.2, 0.0))
    for moved, advantage, pushed in ((0.5, 1.0, False), (-0.5, -1.0, False), (0.5, -1.0, True), (0.1, 1.0, True)):
        assert (float(push(jnp.asarray([moved]), jnp.asarray([advantage]))[0]) != 0) == pushed


def test_first_step_of_ppo_is_reinforce():
    """Nothing has moved yet, so nothing is clipped."""
    same = dict(SMALL, entropy=0.1, learning_rate=0.03)
    one, other = reinforce(SPACE, **same), ppo(SPACE, epochs=1, **same)
    states = []
    for strategy in (one, other):
        asked, state = jax.jit(strategy.ask, static_argnums=1)(strategy.init(jax.random.key(0)), 4)
        states.append(jax.jit(strategy.tell)(state, asked.id, additive(asked.row)[:, None], jnp.zeros((4, 0))))
    start = one.init(jax.random.key(0)).weights
    for a, b in zip(*(jax.tree.leaves(s.weights) for s in states), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (start, states[0].weights)), strict=True))


@pytest.mark.parametrize("name", STRATEGIES)
def test_failures_leave_baseline_and_weights_as_if_they_had_never_been(name):
    """Only the counter of asks and the places of what waits differ."""
    strategy, (ask, tell) = STRATEGIES[name], JITTED[name]
    asked, state = ask(strategy.init(jax.random.key(0)), 12)
    good = [1, 2, 4, 5, 7, 8, 10, 11]
    scores = np.full((12, 1), np.nan, np.float32)
    scores[good] = np.asarray(additive(asked.row))[good, None]
    nothing = np.zeros((12, 0), np.float32)
    with_failures = tell(state, asked.id, scores, nothing)
    failed_only = tell(state, asked.id, np.full((12, 1), np.nan, np.float32), nothing)
    ids = np.asarray([*good, -1, -1, -1, -1], np.int32)
    without = tell(state, ids, np.concatenate([scores[good], scores[[0, 3, 6, 9]]]), nothing)
    free = jnp.full(16, -1, jnp.int32)
    for a, b in ((with_failures, without), (failed_only, state)):
        for x, y in zip(leaves(a._replace(waiting=free)), leaves(b._replace(waiting=free)), strict=True):
            assert np.array_equal(x, y)
    assert (with_failures.waiting == -1).all() and (failed_only.waiting == -1).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_weights_change_with_every_batch_and_asks_never_wait(name):
    strategy, (ask, tell) = STRATEGIES[name], JITTED[name]
    state, changed, random = strategy.init(jax.random.key(0)), [], []
    for _ in range(9):
        asked, state = ask(state, 1)
        assert asked.id[0] >= 0
        random.append(bool(asked.random[0]))
        head = np.asarray(state.weights["head"][...])
        state = tell(state, asked.id, additive(asked.row)[:, None], jnp.zeros((1, 0)))
        changed.append((head != np.asarray(state.weights["head"][...])).any())
    assert changed == [False, False, False, True, False, False, False, True, False]
    assert random == [True] * 4 + [False] * 5


def test_what_is_learned_from_is_what_was_drawn_under_that_id():
    """Results out of order, and some drawn before an update: row and log-probability belong together."""
    strategy, (ask, tell) = STRATEGIES["ppo"], JITTED["ppo"]
    first, state = ask(strategy.init(jax.random.key(0)), 6)
    order = jnp.asarray([5, 1, 3, 0])
    state = tell(state, order, additive(first.row[order])[:, None], jnp.zeros((4, 0)))
    later, state = ask(state, 4)
    trained = state.weights
    late = jnp.asarray([7, 2, 8, -1])  # id 2 was drawn from the first weights
    state = tell(state, late, jnp.asarray([[1.0], [2.0], [3.0], [0.0]]), jnp.zeros((4, 0)))
    assert (state.rows[:3] == jnp.stack([later.row[1], first.row[2], later.row[2]])).all()
    read = jax.jit(controller(SPACE, hidden=8).read)
    np.testing.assert_allclose(state.log_probs[jnp.asarray([0, 2])], read(trained, later.row[1:3]).log_prob, rtol=1e-4)
    assert float(state.log_probs[1]) == pytest.approx(-np.log(3 * 4 * 3), rel=1e-5)  # uniform then


def test_rows_given_first_are_asked_first_and_learned_from():
    given = [[2, 3, 2], [0, 0, 1]]
    strategy = ppo(SPACE, first=given, **SMALL)
    asked, state = jax.jit(strategy.ask, static_argnums=1)(strategy.init(jax.random.key(0)), 4)
    assert asked.row[:2].tolist() == given and asked.random.tolist() == [False, False, True, True]
    np.testing.assert_allclose(state.waiting_log_probs[:4], -np.log(3 * 4 * 3), rtol=1e-5)
    assert strategy.arguments["first"] == given


def test_share_beaten():
    """By hand: two scores and a limit; the fourth place of the memory is still empty."""
    held = Results(jnp.int32(3), jnp.asarray([[1.0, 5], [2, 2], [9, 9], [0, 0]]), jnp.asarray([[0.0], [0], [1], [0]]))
    found = lambda scores, over: float(share_beaten(held, jnp.asarray(scores), jnp.asarray([over])))  # noqa: E731
    assert found([3.0, 6.0], 0.0) == pytest.approx(1)
    assert found([1.5, 4.0], 0.0) == pytest.approx((0.5 + 0.5 + 1) / 3)  # beside two, ahead of the infeasible one
    assert found([1.0, 5.0], 0.0) == pytest.approx((0.5 + 0.5 + 1) / 3)  # equal to the first, beside the second
    assert found([0.0, 0.0], 0.0) == pytest.approx(1 / 3)
    assert found([99.0, 99.0], 2.0) == pytest.approx(0)
    empty = held._replace(seen=jnp.int32(0))
    assert float(share_beaten(empty, jnp.asarray([1.0, 1.0]), jnp.asarray([0.0]))) == 0.5


@pytest.mark.parametrize("name", STRATEGIES)
def test_converges_on_an_additive_toy(name):
    """The policy itself ends near the optimum of all 36 rows, from a start where each has 1/36."""
    strategy = {"reinforce": reinforce, "ppo": ppo}[name](SPACE, hidden=16, learning_rate=0.03, entropy=0.0)

    @jax.jit
    def search(key):
        def step(state, _):
            asked, state = strategy.ask(state, 1)
            return strategy.tell(state, asked.id, additive(asked.row)[:, None], jnp.zeros((1, 0))), asked.row[0]

        return jax.lax.scan(step, strategy.init(key), length=300)[1]

    values = np.asarray([additive(search(jax.random.key(seed))) for seed in range(4)])
    masked = np.where([[True] * 3 + [False], [True] * 4, [True] * 3 + [False]], WEIGHTS, -1)
    best, mean = masked.max(1).sum(), sum(WEIGHTS[i, :k].mean() for i, k in enumerate((3, 4, 3)))
    assert (values[:, -50:].mean() - mean) / (best - mean) > 0.8


@pytest.mark.parametrize("factory", [reinforce, ppo])
@pytest.mark.parametrize(
    "bad",
    [
        *({"batch": 0}, {"memory": 0}, {"in_flight": 0}, {"hidden": 0}, {"learning_rate": -1.0}),
        *({"entropy": float("nan")}, {"baseline_decay": 1.0}, {"power": -1.0}),
    ],
)
def test_bad_settings(factory, bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        factory(SPACE, **bad)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"clip": -0.1}])
def test_bad_settings_of_ppo(bad):
    with pytest.raises(BadInput, match=f"ppo: {next(iter(bad))}"):
        ppo(SPACE, **bad)
