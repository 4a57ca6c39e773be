"""Progressive shrinking: who is trained when, what the teacher is, and what a step of each rule computes."""

import inspect
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nas.checkpoint import load_checkpoint, save_checkpoint
from nas.data import load, on_device
from nas.elastic import extreme, share
from nas.errors import BadInput
from nas.evaluate import Job
from nas.network import apply_layers
from nas.one_shot import Batch, train_shared
from nas.recipe import Recipe
from nas.sharing import Inherited, Sharing
from nas.space import Macro
from search_spaces import nasbench201, ofa_mbv3
from search_spaces.mobile import Frame, Stage, mobile_space
from strategies.once_for_all import RULES, _phases, once_for_all

OPTIONS = {"kernel": (3, 5), "expand": (1.5, 2, 3), "layers": (1, 2)}
SPACE = mobile_space("elastic", Frame(8, (Stage(8, 2, 2, {}, OPTIONS),), head=16), macro=Macro(8, 1, (8, 8, 1), 10))
RECIPE = Recipe(epochs=12, batch=32, learning_rate=0.05, gradient_clip=0, weight_decay=0, momentum=0)
MAKE = partial(once_for_all, SPACE, macro=SPACE.macro, rule="progressive", teacher=0.1)


@pytest.fixture(scope="module")
def trained():
    """(method, state and metrics and events after each epoch) of a whole progressive training."""
    data = load("digits", limit=64)
    splits = tuple(on_device(getattr(data, s), data.mean, data.std) for s in ("train", "validation"))
    method = MAKE(recipe=RECIPE, steps=24)
    states = []

    def after_epoch(state, epoch, validation):
        found = method.after_epoch(state, epoch, validation)
        states.append((state, found[0]))
        return found

    shared = train_shared(method._replace(after_epoch=after_epoch), splits, RECIPE, seed=0)
    return method, states, shared


def options_in_use(state):
    """{kind: most options of a decision that are trained}."""
    kinds = share(SPACE, SPACE.macro).kinds
    allowed = np.asarray(state.allowed)
    found = {}
    for i, decision in enumerate(SPACE.decisions):
        found.setdefault(kinds[decision.name], set()).add(int(allowed[i].sum()))
    return {kind: counts.pop() for kind, counts in found.items()}


def test_properties_shrink_one_after_the_other(trained):
    _, states, shared = trained
    before = [options_in_use(state) for state, _ in states]
    assert before[0] == {"kernel": 1, "depth": 1, "expand": 1}
    order = list(dict.fromkeys(tuple(b[kind] for kind in ("kernel", "depth", "expand")) for b in before))
    assert order == [(1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 3)]
    events = [event for entry in shared.record for event in entry["events"]]
    assert [event["event"] for event in events] == ["phase"] * 4
    assert [("sorted" in event["why"]) for event in events] == [False, False, True, True]


def test_phases_are_those_of_the_authors_code():
    """Epochs, networks a step, and rates; theirs are for gradients added over networks and two losses, on 32 GPUs."""
    space = ofa_mbv3(resolutions=(224,))
    defaults = {name: p.default for name, p in inspect.signature(once_for_all).parameters.items()}
    settings = defaults["teacher"], MAKE(recipe=RECIPE, steps=24).arguments["sampled"], defaults["shrinking_rate"]
    found = _phases(space, share(space, space.macro).kinds, 605, *settings)
    lengths, networks = [180, 125, 25, 125, 25, 125], [1, 1, 2, 2, 4, 4]
    rates = [
        2.6,
        *(32 * rate * 2 * n for rate, n in zip((3e-2, 2.5e-3, 7.5e-3, 2.5e-3, 7.5e-3), networks[1:], strict=True)),
    ]
    assert [phase.networks for phase in found] == networks
    np.testing.assert_allclose([phase.end for phase in found], np.cumsum(lengths), atol=2)
    np.testing.assert_allclose([phase.rate for phase in found], np.divide(rates, 2.6), rtol=0.01)


def test_the_schedule_runs_anew_in_each_phase(trained):
    _, _, shared = trained
    starts = [entry["epoch"] for entry in shared.record if entry["events"]]
    rates = [entry["metrics"]["learning_rate"] for entry in shared.record]
    assert len(starts) == 4 and all(rates[epoch] > rates[epoch - 1] for epoch in starts[1:])


def test_only_trained_options_move(trained):
    """While the largest network is trained, no map between kernels does; later they all do."""
    method, states, _ = trained
    maps = lambda state: [w["to_3"] for w in method.shared(state)[0].values() if "to_3" in w]  # noqa: E731
    assert not any(np.any(m) for m in maps(states[0][0])) and all(np.any(m) for m in maps(states[-1][1]))


def test_the_teacher_is_the_largest_network_as_it_was(trained):
    method, states, _ = trained
    first = next(i for i, (before, after) in enumerate(states) if before.phase == 0 and after.phase == 1)
    largest = extreme(SPACE, share(SPACE, SPACE.macro).kinds, largest=True)
    own = method.network.extract(*method.shared(states[first][0]), largest)
    jax.tree.map(np.testing.assert_array_equal, own, states[first][1].teacher)
    jax.tree.map(np.testing.assert_array_equal, own, states[-1][1].teacher)


def test_sorting_leaves_what_is_trained_as_it_is(trained):
    """When the second ratio joins, the largest network computes what it did; at the third, both widths do."""
    method, states, _ = trained
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    largest = extreme(SPACE, share(SPACE, SPACE.macro).kinds, largest=True)
    middle = np.asarray([1 if d.name.endswith("expand") else n for d, n in zip(SPACE.decisions, largest, strict=True)])
    expands = [i for i, d in enumerate(SPACE.decisions) if d.name.endswith("expand")]
    for before, after in states:
        counts = [int(np.asarray(s.allowed)[expands[0]].sum()) for s in (before, after)]
        if counts[0] != counts[1]:
            for row in (largest, middle)[: counts[0]]:
                out = [
                    apply_layers(SPACE.layers(row), *method.network.extract(*method.shared(s), row), x, train=False)[0]
                    for s in (before, after)
                ]
                np.testing.assert_allclose(*out, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_any_phase_holds_all_that_a_resume_needs(trained, tmp_path):
    """The arrays come back by the structure of a new state, and what is between epochs needs them alone."""
    method, states, _ = trained
    like = jax.eval_shape(method.init, jax.random.key(0))
    for epoch, (before, after) in enumerate(states, start=1):
        save_checkpoint(tmp_path / "state.safetensors", before, {"epoch": epoch})
        again, notes = load_checkpoint(tmp_path / "state.safetensors", like)
        assert notes == {"epoch": epoch}
        jax.tree.map(np.testing.assert_array_equal, again, before)
        jax.tree.map(np.testing.assert_array_equal, method.after_epoch(again, epoch, None)[0], after)


def test_accuracy_is_measured_with_statistics_of_its_own(trained):
    """And beside it what the shared ones would give."""
    data = load("digits", limit=64)
    sharing = Sharing(SPACE, partial(once_for_all, SPACE, rule="progressive"), data, RECIPE, SPACE.macro)
    _, _, shared = trained
    row = extreme(SPACE, share(SPACE, SPACE.macro).kinds, largest=False)
    (metrics,) = Inherited(sharing, [shared])()(Job(0, row))
    assert 0 <= metrics["accuracy"] <= 1 and metrics["loss"] != metrics["loss_uncalibrated"]


@pytest.mark.parametrize("rule", ["sandwich", "single_stage"])
def test_a_step_is_the_mean_gradient_of_its_networks(rule):
    """Written out over the networks' own layers."""
    method = MAKE(recipe=RECIPE, steps=24, rule=rule, sampled=2)
    state = jax.jit(method.init)(jax.random.key(0))
    kinds = share(SPACE, SPACE.macro).kinds
    largest, smallest = (extreme(SPACE, kinds, which) for which in (True, False))
    # where one option of each decision is trained, all draws are that network
    only = np.arange(max(SPACE.cardinalities)) == smallest[:, None]
    state = state._replace(allowed=jnp.asarray(only))
    rng = np.random.default_rng(0)
    batch = Batch(jnp.asarray(rng.normal(size=(32, 8, 8, 1)), jnp.float32), jnp.asarray(rng.integers(0, 10, 32)))
    after, metrics = jax.jit(method.step)(state, batch, batch, jax.random.key(1), jnp.float32(0))
    weights, stats = method.shared(state)
    labels = jax.nn.one_hot(batch.labels, 10)

    def loss(weights, row, targets):
        own = method.network.extract(weights, stats, row)
        return optax.softmax_cross_entropy(
            apply_layers(SPACE.layers(row), *own, batch.x, train=True)[0], targets
        ).mean()

    def both(weights):
        if rule == "single_stage":
            return loss(weights, smallest, labels)
        own = method.network.extract(weights, stats, largest)
        says = jax.nn.softmax(apply_layers(SPACE.layers(largest), *own, batch.x, train=True)[0])
        return (loss(weights, largest, labels) + loss(weights, smallest, jax.lax.stop_gradient(says))) / 2

    expected = jax.jit(jax.grad(both))(weights)
    assert np.isclose(metrics["learning_rate"], 0.05)
    found = jax.tree.map(lambda a, b: (a - b) / 0.05, weights, method.shared(after)[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)


def test_two_devices_train_what_one_does():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    code = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from nas import one_shot
from nas.data import load
from nas.errors import BadInput
from nas.sharing import Sharing
from nas.space import Macro
from nas.recipe import Recipe
from nas.train import data_mesh, on_all, spread_over
from search_spaces.mobile import Frame, Stage, mobile_space
from strategies.once_for_all import once_for_all

mesh = data_mesh(2)
x = on_all(mesh)(jnp.ones((4, 3)))
assert "all-reduce" in jax.jit(lambda x: spread_over(mesh)(x).sum(0)).lower(x).compile().as_text()

programs, make = [], one_shot._program
one_shot._program = lambda *given: programs.append(make(*given)) or programs[-1]
stage = Stage(8, 1, 2, {}, {"kernel": (3, 5), "expand": (1, 2)})
space = mobile_space("elastic", Frame(8, (stage,), head=16), macro=Macro(8, 1, (8, 8, 1), 10))
data, found = load("digits", limit=128), []
for devices in (1, 2):
    rule = partial(once_for_all, space, rule="progressive")
    sharing = Sharing(space, rule, data, Recipe(epochs=6, batch=32), devices=devices)
    shared = sharing.train(0)
    assert sum(len(entry["events"]) for entry in shared.record) == 2  # kernels, ratios
    found.append(sharing.method.shared(shared.state))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *found)
assert [program._cache_size() for program in programs] == [1, 1]
try:
    Sharing(space, partial(once_for_all, space), data, Recipe(batch=31), devices=2).train(0)
except BadInput as error:
    assert "2 cannot share a batch of 31 images" in str(error)
else:
    raise AssertionError("a batch of 31 was split")
"""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["JAX_COMPILATION_CACHE_DIR"] = jax.config.values["jax_compilation_cache_dir"]
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_each_rule_has_a_number_of_networks_of_its_own():
    sampled = {rule: MAKE(recipe=RECIPE, steps=24, rule=rule).arguments["sampled"] for rule in RULES}
    assert sampled == {"single_stage": 2, "progressive": 4, "sandwich": 4}


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"rule": "sandwhich"}, "did you mean 'sandwich'"),
        ({"sampled": 0}, "sampled"),
        ({"rule": "sandwich", "sampled": 1}, "at least 2"),
        ({"teacher": 1.0}, "teacher"),
        ({"distillation": -1}, "distillation"),
    ],
)
def test_bad_settings_are_refused_in_one_line(setting, word):
    with pytest.raises(BadInput, match=word) as caught:
        MAKE(recipe=RECIPE, steps=24, **setting)
    assert "\n" not in str(caught.value)


def test_a_space_with_nothing_elastic_is_refused():
    space = nasbench201()
    with pytest.raises(BadInput, match="elastic options must be numbers"):
        once_for_all(space, macro=space.macro, recipe=RECIPE, steps=24)
