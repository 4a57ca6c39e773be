"""HW-GPT-Bench's space: counts against the published ones, and rows that are one network."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.hwgpt import read
from nas.cost import Stamp, tabulate
from nas.errors import BadInput
from nas.layers import counts
from nas.mixed import mixed_supernet
from nas.space import Macro
from search_spaces.gpt import FIRST, HEAD, VOCABULARY, gpt

SMALL = Macro(1, 1, (6,), 50)


def choices(space, layers, heads=4, ratio=2, **others):
    there = {}
    for i in range((space.length - FIRST) // 2):
        first = space.decisions[FIRST + 2 * i].options[0]
        there[f"layer_{i}_heads"] = heads if i < layers else first
        there[f"layer_{i}_mlp_ratio"] = ratio if i < layers else 2
    return {"embed_dim": 192, "n_layer": layers, "bias": 0, **others, **there}


def test_parameters_are_those_of_the_formula():
    space = gpt()
    for bias in (0, 1):
        row = space.encode(choices(space, 10, heads=8, ratio=3, bias=bias))
        layer = 4 * 192 * 8 * HEAD + 3 * 3 * 192**2 + 4 * 192 + bias * (3 * 8 * HEAD + 2 * 3 * 192 + 2 * 192)
        assert counts(space.layers(row)).params == 2 * VOCABULARY * 192 + 10 * layer + 2 * 192


def test_layers_that_are_not_there_choose_nothing():
    space = gpt()
    with pytest.raises(BadInput, match="'layer_10_heads' = 8 is not allowed"):
        space.encode(choices(space, 10) | {"layer_10_heads": 8})
    rows = np.asarray(jax.jit(space.sample, static_argnums=1)(jax.random.key(0), 50))
    depth = np.asarray((10, 11, 12))[rows[:, 1]]
    for i in (10, 11):
        assert not rows[depth <= i, FIRST + 2 * i : FIRST + 2 * i + 2].any()


@pytest.mark.slow
def test_the_network_reads_no_later_token():
    space = gpt()
    model = space.build(space.encode(choices(space, 10)), SMALL, rngs=nnx.Rngs(0))
    network = functools.partial(nnx.jit(lambda model, x: model(x)), model)
    tokens = np.arange(12).reshape(2, 6)
    out, other = network(tokens), network(np.where(np.arange(6) < 4, tokens, 49))
    assert out.shape == (2, 6, 50)
    np.testing.assert_allclose(out[:, :4], other[:, :4], rtol=1e-4, atol=1e-5)
    assert abs(out - other).max() > 1e-3


def test_what_there_is_not_is_one_line():
    with pytest.raises(BadInput, match=r"no scale 'xl'; .*known: l, m, s"):
        gpt("xl")
    with pytest.raises(BadInput, match="has no shared program"):
        gpt().supernet()
    with pytest.raises(BadInput, match="is no choice between operations"):
        mixed_supernet(gpt(), SMALL)


@pytest.mark.parametrize("scale, batch", [("s", 8), ("m", 4), ("l", 1)])
def test_counts_of_the_published_networks(published, scale, batch):
    """All parameters and operations of the small scale, and those of some networks of the others."""
    table = read(published(f"hw_gpt_bench/gpt_{scale}.csv.gz"))
    assert table.space.arguments == {"scale": scale} and table.batch == batch and len(table.rows) == 10_000
    params, flops = (np.asarray(table.columns[name], np.float64) for name in ("params", "flops"))
    some = slice(None) if scale == "s" else slice(0, 20)
    stamp = Stamp("params", "", "any", "closed form", 1, "float32", dataclasses.asdict(table.space.macro), "layers")
    if scale == "s":
        once = functools.cache(lambda row: told(table.space, row))
        of = [tabulate(table.space, lambda row, k=k: once(tuple(row.tolist()))[k], stamp)(table.rows) for k in range(2)]
    else:
        of = np.asarray([told(table.space, row) for row in table.rows[some]]).T
    assert np.array_equal(of[0], params[some])
    np.testing.assert_allclose(batch * of[1], flops[some], rtol=1e-12)


def told(space, row):
    """(parameters, operations as the benchmark counts them: five a value of a norm, one of an activation)."""
    layers = space.layers(row)
    found = counts(layers)
    values = {op: sum(np.prod(x.output_shape) for x in layers if x.op == op) for op in ("layer_norm", "activation")}
    return found.params, 2 * found.macs + 5 * values["layer_norm"] + values["activation"]
