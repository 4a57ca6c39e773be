"""Training as data, against the same training written by hand with Flax and optax."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from nas.data import batches, gather, load, on_device
from nas.errors import BadInput
from nas.evaluate import Job, Scratch, fit_macro, keep_going
from nas.network import Network
from nas.recipe import Recipe, learning_rate_at
from nas.train import make_program


@pytest.fixture(scope="module")
def digits():
    return load("digits", limit=160)


@pytest.fixture(scope="module")
def macro(small_space, digits):
    return fit_macro(small_space.macro, digits)


@pytest.fixture(scope="module")
def evaluate(small_space, digits, macro):
    """Two epochs unless a job says otherwise; one program for all who use it."""
    return Scratch(small_space, digits, Recipe(epochs=2, batch=32), macro=macro, rungs=(1,))()


ROW = np.asarray([4, 3], np.int32)
RECIPE = Recipe(epochs=2, batch=32, learning_rate=0.05, weight_decay=1e-3, gradient_clip=1.0, label_smoothing=0.1)


def by_hand(layers, weights, stats, images, labels, order, total):
    """Flax network, optax's own SGD and cosine schedule, a plain loop."""
    network = Network(layers).load(weights, stats)
    network.train()
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-3),
        optax.sgd(optax.cosine_decay_schedule(0.05, total), momentum=0.9, nesterov=True),
    )
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    state = optimizer.init(params)

    @jax.jit
    def step(params, rest, state, x, y):
        def loss(params):
            net = nnx.merge(graph, params, rest, copy=True)
            targets = 0.9 * jax.nn.one_hot(y, 10) + 0.01
            value = -(targets * jax.nn.log_softmax(net(x))).sum(-1).mean()
            return value, nnx.state(net, nnx.Not(nnx.Param))

        (_, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        update, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, update), rest, state

    for batch in order:
        params, rest, state = step(params, rest, state, images[batch], labels[batch])
    return nnx.merge(graph, params, rest).weights()


def test_three_steps_in_the_shared_program_equal_three_of_its_own_network(small_space, digits, macro):
    supernet = small_space.supernet(macro)
    program = make_program(supernet, RECIPE)
    split = on_device(digits.train, digits.mean, digits.std)
    order = batches(160, 32, seed=0, epoch=0)[:3]
    images, labels = gather(split, jnp.arange(160))
    for row in np.asarray([[4, 3], [2, 4], [3, 0]], np.int32):
        state = program.init(jax.random.key(1), row)
        weights, stats = jax.tree.map(np.array, supernet.extract(state.weights, state.stats, row))
        state, _ = program.train(state, row, split, order, jax.random.key(2), np.int32(10))
        ours = supernet.extract(state.weights, state.stats, row)
        theirs = by_hand(small_space.layers(row, macro), weights, stats, images, labels, order, 10)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
    assert program.train._cache_size() == 1


def test_evaluation_covers_every_image_once(small_space, digits, macro):
    """With a batch that does not divide the split, against all images in one call."""
    supernet = small_space.supernet(macro)
    program = make_program(supernet, Recipe(batch=37))
    row = ROW
    state = program.init(jax.random.key(0), row)
    split = on_device(digits.test, digits.mean, digits.std)
    found = program.evaluate(state.weights, state.stats, row, split)
    images, labels = gather(split, jnp.arange(len(digits.test.labels)))
    out, _, _ = supernet.apply(state.weights, state.stats, images, row, train=False)
    assert float(found["accuracy"]) == pytest.approx(float((out.argmax(-1) == labels).mean()), abs=1e-6)
    expected = -jnp.take_along_axis(jax.nn.log_softmax(out), labels[:, None], 1).mean()
    assert float(found["loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_candidates_lengths_and_seeds_share_one_program(small_space, evaluate):
    found = [
        list(evaluate(Job(i, row, epochs, seed=i)))
        for i, (row, epochs) in enumerate(
            zip(np.asarray(small_space.sample(jax.random.key(0), 4)), (0, 1, 3, 2), strict=True)
        )
    ]
    assert [len(reports) for reports in found] == [2, 1, 2, 2]
    assert [reports[-1]["epochs"] for reports in found] == [2, 1, 3, 2]
    assert all(reports[-1]["train_compilations"] == 1 for reports in found)


def test_same_job_same_metrics(evaluate):
    first, again, other = (list(evaluate(Job(id, ROW, 0, 5)))[-1] for id in (3, 3, 4))
    assert first["loss"] == again["loss"] != other["loss"]


def test_bfloat16_computes_nearly_the_same(small_space, digits, macro, evaluate):
    recipe = Recipe(epochs=2, batch=32, precision="bfloat16")
    half = list(Scratch(small_space, digits, recipe, macro=macro)()(Job(0, ROW)))[-1]["train_loss"]
    whole = list(evaluate(Job(0, ROW)))[-1]["train_loss"]
    assert half == pytest.approx(whole, rel=0.05)
    assert half != whole


def test_two_devices_compute_what_one_does():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    code = """
import jax, numpy as np
from nas.data import load
from nas.evaluate import Job, Scratch
from nas.recipe import Recipe
from conftest import small
space = small()
data = load("digits", limit=128)
losses = []
for devices in (1, 2):
    scratch = Scratch(space, data, Recipe(epochs=2, batch=32), macro=space.macro, devices=devices)
    losses.append(list(scratch()(Job(0, np.asarray([4, 3], np.int32))))[-1]["train_loss"])
assert len(jax.devices()) == 2
assert abs(losses[0] / losses[1] - 1) < 1e-3, losses
"""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    path = os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rate(schedule):
    recipe = Recipe(learning_rate=0.4, schedule=schedule, warmup=0.2)
    rates = [float(learning_rate_at(recipe, step, 50)) for step in range(50)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[9] == pytest.approx(0.4)
    expected = optax.warmup_cosine_decay_schedule(0, 0.4, 10, 50)(30) if schedule == "cosine" else 0.4
    assert rates[30] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch": 2.5}, "batch"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"augment": ("flop",)}, "flip"),
        ({"precision": "float16"}, "bfloat16"),
    ],
)
def test_bad_recipes(bad, says):
    with pytest.raises(BadInput, match=says) as caught:
        Recipe(**bad)
    assert "\n" not in str(caught.value)


def test_unknown_setting_suggests_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'learning_rate'"):
        Recipe().replace(learning_rat=0.1)


def test_rungs():
    """The best third goes on, the first one there always, failures never."""
    seen = []
    went_on = []
    for score in (0.5, 0.4, 0.6, 0.3, 0.55, 0.7):
        went_on.append(keep_going(seen, score, 3))
        seen.append(score)
    assert went_on == [True, False, True, False, True, True]
    assert not keep_going([], float("nan"), 3)
