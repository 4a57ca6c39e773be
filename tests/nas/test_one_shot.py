"""Training of shared weights: what a user relies on is that a kill, a resume or a bad step loses nothing."""

import functools
import os
import signal
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas import one_shot
from nas.builder import LayerBuilder
from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.data import load, on_device
from nas.errors import BadInput
from nas.evaluate import CandidateFailed
from nas.one_shot import Batch, OneShot, recalibrate, train_shared
from nas.recipe import Recipe
from nas.sharing import Sharing, search
from nas.space import Decision, Macro, SearchSpace
from strategies import STRATEGIES


def network(net: LayerBuilder, macro: Macro):
    def conv(kernel):
        return net.activation(net.batch_norm(net.conv(net.input, macro.width, kernel, stride=2)))

    x = net.choice("kernel", {1: lambda: conv(1), 3: lambda: conv(3)})
    with net.scope("last"):
        x = net.activation(net.batch_norm(net.conv(x, 2 * macro.width, 3, stride=2)))
    return net.linear(net.global_avg_pool(x), macro.classes)


SPACE = SearchSpace("toy", (Decision("kernel", (1, 3)),), network, Macro(16, 1, (8, 8, 1), 10))


class State(NamedTuple):
    weights: dict
    stats: dict
    key: jax.Array


def uniform(space, *, macro, recipe, steps, fails_at=None, derives=False, after_epoch=None):
    """Single-path training with uniform sampling, as small as it can be."""
    net = space.supernet(macro)

    def init(key):
        return State(*net.init(key), key)

    def step(state, train: Batch, valid: Batch, key, progress):
        row = jax.random.randint(key, (1,), 0, 2)

        def loss(weights):
            out, stats, _ = net.apply(weights, state.stats, train.x, row, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(out, train.labels).mean(), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.weights)
        weights = jax.tree.map(lambda w, g: w - 0.3 * g, state.weights, gradient)
        value = value if fails_at is None else fails_at(value, progress, key)
        return State(weights, stats, state.key), {"loss": value, "seen": valid.labels.sum()}

    return OneShot(
        init,
        step,
        after_epoch,
        (lambda state, validation, key: [[1], [0]]) if derives else None,
        None,
        lambda state: (state.weights, state.stats),
        net,
        "uniform",
        {},
    )


@functools.cache
def splits():
    data = load("digits", limit=400, validation_fraction=0.2)
    return tuple(on_device(getattr(data, s), data.mean, data.std) for s in ("train", "validation"))


RECIPE = Recipe(epochs=3, batch=16, augment=("crop:1",))  # 25 steps an epoch: a chunk of 20 and one of 5


def method(**settings):
    return uniform(SPACE, macro=SPACE.macro, recipe=RECIPE, steps=75, **settings)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(one_shot_bits(x), one_shot_bits(y)), a, b)


def one_shot_bits(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


@pytest.fixture(scope="module")
def undisturbed():
    return train_shared(method(), splits(), RECIPE, seed=5)


@pytest.mark.parametrize("at", [20, 25, 45])
def test_interrupted_and_resumed_gives_the_same_arrays(tmp_path, undisturbed, at):
    def stop(done, metrics):
        if done == at:
            raise KeyboardInterrupt

    path = tmp_path / "seed.safetensors"
    first = train_shared(method(), splits(), RECIPE, seed=5, checkpoint=path, observer=stop)
    assert not first.finished
    second = train_shared(method(), splits(), RECIPE, seed=5, checkpoint=path)
    assert second.finished
    same(second.state, undisturbed.state)
    assert [e["metrics"] for e in second.record] == [e["metrics"] for e in undisturbed.record]


def test_no_time_left_stops_and_resumes(tmp_path, undisturbed):
    path = tmp_path / "seed.safetensors"
    assert not train_shared(method(), splits(), RECIPE, seed=5, checkpoint=path, seconds=1e-9).finished
    same(train_shared(method(), splits(), RECIPE, seed=5, checkpoint=path).state, undisturbed.state)


def test_an_epoch_shows_every_image_once_and_validation_begins_anew():
    key = jax.random.key(0)
    order = one_shot._order(50, 10, key, 0, 5)[:5]
    assert sorted(order.ravel()) == list(range(50))
    again = one_shot._order(50, 10, key, 3, 20)  # from the middle of one pass into later ones
    assert sorted(again[2:7].ravel()) == list(range(50))
    np.testing.assert_array_equal(again[:2], order[3:5])


def failing_once(step):
    """A loss that is no number in one step of seed 5; after going back that step has another key."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 1), 0)
    drawn = jax.random.key_data(jax.random.split(jax.random.fold_in(key, step))[1])[0]
    return lambda value, progress, key: jnp.where(jax.random.key_data(key)[0] == drawn, jnp.nan, value)


def test_a_step_that_diverges_goes_back_once_with_other_random_numbers():
    done = train_shared(method(fails_at=failing_once(31)), splits(), RECIPE, seed=5)
    assert done.finished
    events = [e for entry in done.record for e in entry["events"]]
    assert [e["guard"] for e in events] == ["divergence"]
    assert "epoch 2" in events[0]["why"] and "end of epoch 1" in events[0]["why"]


def test_what_diverges_after_a_resume_goes_back_as_far_as_without_one(tmp_path):
    def stop(done, metrics):
        if done == 45:
            raise KeyboardInterrupt

    path = tmp_path / "seed.safetensors"
    undisturbed = train_shared(method(fails_at=failing_once(46)), splits(), RECIPE, seed=5)
    train_shared(method(fails_at=failing_once(46)), splits(), RECIPE, seed=5, checkpoint=path, observer=stop)
    resumed = train_shared(method(fails_at=failing_once(46)), splits(), RECIPE, seed=5, checkpoint=path)
    same(resumed.state, undisturbed.state)
    assert [e["events"] for e in resumed.record] == [e["events"] for e in undisturbed.record]


def test_a_training_that_goes_on_diverging_fails_with_the_reason():
    always = lambda value, progress, key: jnp.where(progress > 0.4, jnp.nan, value)  # noqa: E731
    with pytest.raises(CandidateFailed, match="loss is no finite number in epoch 2, and again"):
        train_shared(method(fails_at=always), splits(), RECIPE, seed=5)


def test_recalibrated_statistics_are_the_means_over_the_batches(undisturbed):
    net, train = method().network, splits()[0]
    weights, stats = undisturbed.state.weights, undisturbed.state.stats
    order = jnp.arange(64).reshape(4, 16)
    found = recalibrate(net, weights, stats, jnp.asarray([1]), train, order)
    name = next(n for n in found if "3" in n)
    kernel = weights[name.replace("batch_norm", "conv")]["kernel"]
    scale = 255 if train.images.dtype == np.uint8 else 1
    images = (np.asarray(train.images[:64], np.float32) / scale - np.asarray(train.mean)) / np.asarray(train.std)
    out = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(4, -1, 16)
    np.testing.assert_allclose(found[name]["mean"], out.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(found[name]["var"], out.var(1).mean(0), rtol=1e-4)


def test_checkpoints_of_something_else_are_refused_in_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"a": jnp.ones(3), "key": jax.random.key(1)}, {"n": 1})
    state, notes = load_checkpoint(path, {"a": jnp.zeros(3), "key": jax.random.key(0)})
    assert notes == {"n": 1}
    assert jax.random.key_data(state["key"]).tolist() == jax.random.key_data(jax.random.key(1)).tolist()
    with pytest.raises(BadInput, match="another space, method or version"):
        load_checkpoint(path, {"a": jnp.zeros(4), "key": jax.random.key(0)})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadInput, match="damaged"):
        load_checkpoint(path, {"a": jnp.zeros(3)})


def sharing(**settings):
    options = {"limit": 400, "validation_fraction": 0.2}
    return Sharing(SPACE, functools.partial(uniform, SPACE, **settings), "digits", RECIPE, data_options=options)


def test_a_strategy_looks_for_the_best_in_the_shared_weights(tmp_path):
    found = search(sharing(), searcher=STRATEGIES["random_search"](SPACE), trials=3, seed=5, out=tmp_path / "a")
    assert len(found.trials) == 3
    assert {t.status for t in found.trials} == {"finished"}
    assert found.best.metrics["accuracy"] > 0.3  # by chance it would be .1
    assert (tmp_path / "a" / "training.json").exists()
    again = search(
        sharing(), searcher=STRATEGIES["random_search"](SPACE), trials=3, seed=5, out=tmp_path / "a", resume=True
    )
    assert [t.metrics for t in again.trials] == [t.metrics for t in found.trials]


def test_what_a_method_derives_becomes_trials_in_the_weights_of_its_own_seed():
    found = search(sharing(derives=True), seeds=2, trials=4, seed=5)
    assert [t.row.tolist() for t in found.trials] == [[1], [0], [1], [0]]
    accuracies = [t.metrics["accuracy"] for t in found.trials]
    assert accuracies[0] != accuracies[2]
    assert [r["seed"] for r in found.training["runs"]] == [5, 6]


def test_a_method_that_derives_nothing_needs_a_searcher():
    with pytest.raises(BadInput, match="give it a searcher"):
        search(sharing())


RAYS_OWN = ("DeprecationWarning", "FutureWarning", "ResourceWarning")


@pytest.mark.filterwarnings(*(f"ignore::{name}" for name in RAYS_OWN))
def test_through_ray_a_killed_worker_goes_on_and_nothing_differs(tmp_path, undisturbed):
    from nas.tune_shared import train_shared as train_shared_by_ray

    killed = tmp_path / "killed"

    def kill_once(state, epoch, validation):
        if epoch == 2 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return state, [], False

    lock = threading.Lock()  # as a display has one: what watches stays in this process

    def watch(seed, done, metrics):
        with lock:
            assert seed in (5, 6)

    found = search(
        sharing(derives=True, after_epoch=kill_once),
        seeds=2,
        seed=5,
        out=tmp_path / "a",
        train=train_shared_by_ray,
        watch=watch,
    )
    assert killed.exists()
    here = search(sharing(derives=True), seeds=2, seed=5)
    assert [t.metrics["loss"] for t in found.trials] == [t.metrics["loss"] for t in here.trials]
    for a, b in zip(found.training["runs"], here.training["runs"], strict=True):
        assert [e["metrics"] for e in a["epochs"]] == [e["metrics"] for e in b["epochs"]]
