"""What every search space must hold. A new space is one row in the table."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from nas.errors import BadInput
from nas.layers import counts
from nas.space import Decision, Macro, SearchSpace
from search_spaces import SPACES

# space, what its factory is called with, a small macro, its fingerprint: a changed one breaks people's saved files
TABLE = [
    ("nasbench201", {}, Macro(4, 1, (8, 8, 3), 10), "42e5ce17935e4e3d"),
    ("nats_size", {"widths": (4, 8)}, Macro(8, 1, (8, 8, 3), 10), "2ff87b7d3d5d9f99"),
    ("darts", {}, Macro(4, 3, (8, 8, 3), 10), "03532dcb24bafc9f"),
    ("nasnet", {}, Macro(4, 3, (8, 8, 3), 10), "a62c767b3ab1a826"),
    ("amoebanet", {"nodes": 3}, Macro(4, 3, (8, 8, 3), 10), "800755389fcabf71"),
    ("nas_bench_macro", {}, Macro(8, 1, (16, 16, 3), 10), "b45d2a17311fae35"),
    ("fbnet", {"most_layers": 2}, Macro(4, 1, (16, 16, 3), 10), "75a4fbd6e68e6264"),
    ("proxylessnas", {"most_layers": 2}, Macro(8, 1, (16, 16, 3), 10), "13ae89be33647f59"),
    ("mnasnet", {}, Macro(8, 1, (16, 16, 3), 10), "d36da16cb9b67276"),
    ("mobile", {"layers": [1], "se": [0.25], "per": "stage"}, Macro(8, 1, (16, 16, 3), 10), "35957b7f12cd160b"),
    ("ofa_mbv3", {"resolutions": [8, 16], "depths": [1, 2]}, Macro(8, 1, (16, 16, 3), 10), "ac02c208af6a5304"),
    ("ofa_mbv3_small", {"resolutions": [16, 32], "depths": [1, 2]}, Macro(8, 1, (32, 32, 3), 10), "dec00010f8a0d762"),
    (
        "ofa_resnet",
        {"channels": [32, 64], "layers": [2, 2], "fewer": [1, 0]},
        Macro(64, 1, (16, 16, 3), 10),
        "63e1cf3929462c6b",
    ),
    ("darts_rnn", {}, Macro(8, 1, (5,), 12), "25666803fac1c164"),
    ("gpt", {}, Macro(1, 1, (5,), 12), "c34a484c64591992"),
    ("hat", {}, Macro(1, 1, (6,), 12), "0a7306b7402d18da"),
]
EACH = [pytest.param(SPACES[name](**arguments), macro, id=name) for name, arguments, macro, _ in TABLE]
KEY = jax.random.key(0)
all_spaces = pytest.mark.parametrize("space, macro", EACH)


def test_every_space_is_in_the_table():
    assert [name for name, *_ in TABLE] == list(SPACES)


@all_spaces
def test_samples_mutants_and_neighbours_are_allowed(space, macro):
    rows = jax.jit(space.sample, static_argnums=1)(KEY, 50)
    assert rows.shape == (50, space.length) and rows.dtype == np.int32
    mutants = jax.jit(space.mutate)(KEY, rows)
    neighbours = space.neighbours(rows[0])
    valid = jax.jit(space.valid)
    for found in (rows, mutants, neighbours):
        assert valid(found).all()
    assert len({tuple(row) for row in neighbours.tolist()}) == len(neighbours) > 0
    assert np.array_equal(rows, jax.jit(space.sample, static_argnums=1)(KEY, 50)), "the same key gives the same rows"


@all_spaces
def test_a_mutant_differs_in_one_decision_and_in_those_it_forbids(space, macro):
    rows = np.asarray(space.sample(KEY, 100))
    mutants = np.asarray(jax.jit(space.mutate)(jax.random.key(1), rows))
    valid = jax.jit(space.valid)
    assert (rows != mutants).any(1).all()
    for row, mutant in zip(rows, mutants, strict=True):
        later = np.flatnonzero(row != mutant)[1:]
        kept = mutant.copy()
        for i in later:
            kept[i] = row[i]
            assert not valid(kept[None])[0], "a later decision changed without need"
            kept[i] = mutant[i]


@pytest.mark.parametrize("cardinalities", [(5, 5, 5), (1, 7, 2, 1), (1, 1)])
def test_a_space_without_conditions_is_drawn_as_one_whose_conditions_always_hold(cardinalities):
    decisions = tuple(Decision(f"d{i}", range(n)) for i, n in enumerate(cardinalities))
    free = SearchSpace("free", decisions, lambda net, macro: net.input, Macro(1, 1, (1, 1, 1), 1))
    asked = dataclasses.replace(free, allowed_of=lambda row, i: np.ones(cardinalities[i], bool))
    rows = free.sample(KEY, 300)
    assert np.array_equal(rows, asked.sample(KEY, 300))
    assert np.array_equal(free.mutate(KEY, rows), asked.mutate(KEY, rows))
    for column, size in zip(np.asarray(rows).T, cardinalities, strict=True):
        assert np.bincount(column, minlength=size).min() > 0.6 * 300 / size and column.max() < size


@all_spaces
def test_rows_survive_names_and_json(space, macro):
    for row in np.asarray(space.sample(KEY, 20)):
        choices = json.loads(json.dumps(space.decode(row)))
        assert np.array_equal(space.encode(choices), row)


@all_spaces
def test_layers_and_the_flax_network_agree(space, macro):
    for row in np.asarray(space.sample(KEY, 2)):
        layers = space.layers(row, macro)
        model = nnx.eval_shape(lambda row=row: space.build(row, macro, rngs=nnx.Rngs(0)))
        size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert size == counts(layers).params
        text = len(macro.input) == 1
        out = nnx.eval_shape(lambda m, x: m(x), model, np.zeros((2, *macro.input), np.int32 if text else np.float32))
        # a translator reads the source and as many tokens of the target, and scores the latter
        tokens = (macro.input[0] // 2,) if space.name == "hat" else macro.input if text else ()
        assert out.shape == (2, *tokens, macro.classes) == (2, *layers[-1].output_shape)


@all_spaces
def test_layers_are_consistent(space, macro):
    for row in np.asarray(space.sample(jax.random.key(2), 10)):
        layers = space.layers(row, macro)
        for at, layer in enumerate(layers):
            assert all(i < at for i in layer.inputs)
            assert layer.input_shapes == tuple(layers[i].output_shape for i in layer.inputs)
        json.dumps([dataclasses.asdict(layer) for layer in layers])


@all_spaces
def test_a_configuration_gives_the_same_space_again(space, macro):
    again = SPACES[space.name](**json.loads(json.dumps(dict(space.arguments))))
    assert again.fingerprint == space.fingerprint
    assert again.decisions == space.decisions


@pytest.mark.parametrize("name, arguments, macro, fingerprint", TABLE, ids=[name for name, *_ in TABLE])
def test_fingerprints_stay(name, arguments, macro, fingerprint):
    assert SPACES[name](**arguments).fingerprint == fingerprint
    assert SPACES[name](**arguments).at(macro).fingerprint == fingerprint, "the macro is no part of the space"


@all_spaces
def test_fingerprints_tell_spaces_apart(space, macro):
    first, *others = sorted(space.decisions, key=lambda decision: -len(decision.options))
    changes = [
        dict(name=space.name + "_"),
        dict(arguments={**space.arguments, "more": 1}),
        dict(decisions=(Decision(first.name, first.options[::-1]), *others)),
        dict(decisions=(Decision(first.name + "_", first.options), *others)),
    ]
    found = {dataclasses.replace(space, **change).fingerprint for change in changes}
    assert len(found | {space.fingerprint}) == len(changes) + 1


@all_spaces
def test_keys_are_idempotent_and_keep_what_is_computed(space, macro):
    rows = space.sample(KEY, 200)
    keys = jax.jit(jax.vmap(space.key))(rows)
    assert np.array_equal(jax.vmap(space.key)(keys), keys)
    assert space.valid(keys).all()
    assert np.array_equal(space.key(rows[0]), keys[0]), "the same eagerly, and the row itself is left alone"


@all_spaces
@pytest.mark.parametrize("spoil", ["long", "float", "high", "negative", "text"])
def test_bad_rows_are_refused_in_one_line(space, macro, spoil):
    row = np.asarray(space.sample(KEY, 1))[0]
    bad = {
        "long": np.append(row, 0),
        "float": row + 0.5,
        "high": row + 100,
        "negative": row - 100,
        "text": "skip",
    }[spoil]
    with pytest.raises(BadInput) as refused:
        space.check(bad)
    assert "\n" not in str(refused.value)


@all_spaces
def test_bad_choices_are_refused_in_one_line(space, macro):
    choices = space.decode(np.asarray(space.sample(KEY, 1))[0])
    name = space.decisions[0].name
    missing = {k: v for k, v in choices.items() if k != name}
    for bad, word in [(missing, "missing"), ({**choices, name: "x"}, "options"), ({**choices, "x": 0}, "no decision")]:
        with pytest.raises(BadInput, match=word) as refused:
            space.encode(bad)
        assert "\n" not in str(refused.value) and name.split("_")[0] in str(refused.value) + name


@pytest.mark.parametrize("space, macro", [e for e in EACH if e.values[0].allowed_of is not None])
def test_forbidden_rows_are_refused(space, macro):
    row = np.asarray(space.sample(KEY, 1))[0]
    wrong = next(
        other
        for i in range(space.length)
        for option in range(len(space.decisions[i].options))
        if not space.valid((other := np.r_[row[:i], option, row[i + 1 :]].astype(np.int32))[None])[0]
    )
    with pytest.raises(BadInput, match="not allowed"):
        space.check(wrong)


@all_spaces
def test_sizes_that_do_not_halve_are_refused_in_one_line(space, macro):
    rows = np.asarray(space.sample(KEY, 10))
    odd = dataclasses.replace(macro, input=(9, 9, 3))
    try:
        for row in rows:
            space.layers(row, odd)
    except BadInput as refused:
        assert "9x9" in str(refused) and "\n" not in str(refused)
