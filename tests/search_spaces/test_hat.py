"""HAT's space: counts by another formula and against the published one, and what its networks read."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from nas.cost import Stamp, tabulate
from nas.errors import BadInput
from nas.layers import counts
from nas.mixed import mixed_supernet
from nas.network import apply_layers
from nas.space import Macro
from search_spaces.hat import DECODER, QKV, TASKS, hat
from search_spaces.hat_format import from_text, task_of, to_text

SMALL = Macro(1, 1, (8,), 20)
# HAT_wmt14ende_raspberrypi@6.9s_bleu@28.4 of its repository: 48 million parameters in the paper, tables not counted
PUBLISHED = dict(
    encoder_ffn=[3072] * 6,
    encoder_heads=[8, 4, 8, 8, 8, 8],
    ffn=[2048, 2048, 3072, 3072, 2048],
    heads=[8, 8, 8, 4, 8],
    ende=[4, 8, 8, 8, 8],
    attended=[-1, 1, 1, 1, -1],
)


def encoded(space, encoder, decoder, *, encoder_ffn, encoder_heads, ffn, heads, ende, attended):
    """The row of lists by layer; decoder layers beyond the lists have each the first option."""
    found = {"encoder_embed_dim": encoder, "decoder_embed_dim": decoder, "decoder_layer_num": len(ffn)}
    for i, (f, h) in enumerate(zip(encoder_ffn, encoder_heads, strict=True)):
        found |= {f"encoder_{i}_ffn_embed_dim": f, f"encoder_{i}_self_attention_heads": h}
    kinds = ("ffn_embed_dim", "self_attention_heads", "ende_attention_heads", "arbitrary_ende_attn")
    for kind, values in zip(kinds, (ffn, heads, ende, attended), strict=True):
        first = next(d.options[0] for d in space.decisions if d.name == f"decoder_0_{kind}")
        found |= {f"decoder_{i}_{kind}": (*values, *[first] * 6)[i] for i in range(6)}
    return space.encode(found)


def test_the_published_network_has_its_parameters():
    space = hat()
    found = counts(space.layers(encoded(space, 512, 512, **PUBLISHED)))
    assert round((found.params - 32768 * 512) / 1e6) == 48


@pytest.mark.parametrize("task", TASKS)
def test_parameters_and_operations_are_those_of_the_formula(task):
    space = hat(task)
    about = TASKS[task]
    for row in np.asarray(space.sample(jax.random.key(0), 4)):
        chosen, found = space.decode(row), counts(space.layers(row))
        wide, narrow, depth = (chosen[n] for n in ("encoder_embed_dim", "decoder_embed_dim", "decoder_layer_num"))
        attention = lambda own, read: QKV * (2 * own + 2 * read) + 3 * QKV + own  # noqa: E731
        params = 6 * (attention(wide, wide) + 4 * wide + wide)
        params += sum((2 * wide + 1) * chosen[f"encoder_{i}_ffn_embed_dim"] for i in range(6))
        params += depth * (attention(narrow, narrow) + attention(narrow, wide) + 6 * narrow + narrow)
        params += sum((2 * narrow + 1) * chosen[f"decoder_{i}_ffn_embed_dim"] for i in range(depth))
        if about.source is None:
            params += about.vocabulary * max(wide, narrow)
        else:
            params += about.source * wide + 2 * about.vocabulary * narrow
        # one token through all matrices, and the keys and values of more encoder layers than one
        seen = [{-1: 1, 1: 2, 2: 3}[chosen[f"decoder_{i}_arbitrary_ende_attn"]] for i in range(depth)]
        macs = 6 * 4 * QKV * wide + sum(2 * wide * chosen[f"encoder_{i}_ffn_embed_dim"] for i in range(6))
        macs += depth * 6 * QKV * narrow + sum(seen) * 2 * QKV * wide + narrow * about.vocabulary
        macs += sum(2 * narrow * chosen[f"decoder_{i}_ffn_embed_dim"] for i in range(depth))
        assert (found.params, found.macs) == (params, about.tokens * macs)


@pytest.mark.parametrize("count", ["params", "macs"])
def test_counts_add_over_the_factors(count):
    space = hat(ffn=[512, 3072], heads=[4])
    stamp = Stamp(count, "", "any", "closed form", 1, "float32", {}, "layers")
    figure = lambda row: getattr(counts(space.layers(row)), count)  # noqa: E731
    table = tabulate(space, figure, stamp, check=8)  # refuses what does not add
    assert table.base > 0


def test_layers_that_are_not_there_choose_nothing():
    space = hat()
    rows = np.asarray(jax.jit(space.sample, static_argnums=1)(jax.random.key(1), 60))
    assert set(rows[:, 2]) == set(range(6))
    for i in range(6):
        layer = rows[:, DECODER + 4 * i : DECODER + 4 * i + 4]
        assert not layer[rows[:, 2] < i].any() and layer[rows[:, 2] >= i].any()
    with pytest.raises(BadInput, match="'decoder_5_ffn_embed_dim' = 2048 is not allowed"):
        row = encoded(space, 512, 640, **PUBLISHED)
        space.encode(space.decode(row) | {"decoder_5_ffn_embed_dim": 2048})


def small_network():
    space = hat(ffn=[512], heads=[2])
    row = np.zeros(space.length, np.int32)
    row[1], row[DECODER + 3] = 1, 2  # a wider decoder, one layer of which attends to three of the encoder
    layers = space.layers(row, SMALL)
    model = space.build(row, SMALL, rngs=nnx.Rngs(0))
    return layers, model


def test_scores_know_the_whole_source_and_the_target_so_far():
    layers, model = small_network()
    weights, stats = model.weights()
    run = jax.jit(functools.partial(apply_layers, layers, train=False))
    tokens = np.asarray([[3, 1, 4, 1, 5, 9, 2, 6]])
    out = run(weights, stats, tokens)[0]
    assert out.shape == (1, 4, 20)
    np.testing.assert_allclose(model(tokens), out, rtol=1e-4, atol=1e-4)
    for place in range(8):
        moved = abs(run(weights, stats, np.where(np.arange(8) == place, 11, tokens))[0] - out).max((0, 2))
        # a token of the source changes every score, one of the target those from its own place on
        first = max(0, place - 4)
        assert (moved[first:] > 1e-4).all() and (moved[:first] < 1e-5).all()


def test_attended_encoder_layers_are_the_last_ones():
    space = hat()
    for option, names in ((0, ["5"]), (1, ["5", "4"]), (2, ["5", "4", "3"])):
        row = np.zeros(space.length, np.int32)
        row[DECODER + 3] = option
        layers = space.layers(row)
        kv = next(x for x in layers if x.name == "decoder.0.ende_attention.kv")
        (at,) = kv.inputs
        read = layers[at].inputs if layers[at].op == "join" else (at,)
        assert [layers[i].name for i in read] == [f"encoder.{n}.feed_forward.layer_norm" for n in names]
        assert kv.output_shape == (30 * len(names), 2 * QKV)


# the same network in HAT's own words, with the entries beyond its depth that HAT's search leaves
FILE = """
encoder-embed-dim-subtransformer: 512
decoder-embed-dim-subtransformer: 512

encoder-ffn-embed-dim-all-subtransformer: [3072, 3072, 3072, 3072, 3072, 3072]
decoder-ffn-embed-dim-all-subtransformer: [2048, 2048, 3072, 3072, 2048, 3072]

encoder-layer-num-subtransformer: 6
decoder-layer-num-subtransformer: 5

encoder-self-attention-heads-all-subtransformer: [8, 4, 8, 8, 8, 8]
decoder-self-attention-heads-all-subtransformer: [8, 8, 8, 4, 8]
decoder-ende-attention-heads-all-subtransformer: [4, 8, 8, 8, 8]

# -1: the last encoder layer alone
decoder-arbitrary-ende-attn-all-subtransformer: [-1, 1, 1, 1, -1]
"""


def test_hat_s_file_of_a_network_is_read_and_written():
    space, row = from_text(FILE, "wmt14ende")
    assert space.arguments["task"] == "wmt14ende" and np.array_equal(row, encoded(hat(), 512, 512, **PUBLISHED))
    for other in np.asarray(space.sample(jax.random.key(3), 5)):
        assert np.array_equal(from_text(to_text(space, other), "wmt14ende")[1], other)
    assert task_of("HAT_wmt14ende_titanxp@126.0ms_bleu@27.9.yml") == "wmt14ende" and task_of("mine.yml") is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("decoder-layer-num-subtransformer: 5\n", "", "line 'decoder-layer-num-subtransformer: ...' is missing"),
        ("decoder-layer-num-subtransformer: 5", "decoder-layer-num-subtransformer: 9", "has 6 entries; there are 9"),
        ("decoder-layer-num-subtransformer: 5", "decoder-layer-num-subtransformer: 0", "'decoder_layer_num' is 0"),
        ("[8, 8, 8, 4, 8]", "[8, 8, 8, 4]", "has 4 entries; there are 5 layers"),
        ("[8, 8, 8, 4, 8]", "[8, 8, 8, 4, 16]", "'decoder_4_self_attention_heads' is 16"),
        ("[8, 8, 8, 4, 8]", "8", "must be a list of whole numbers"),
        ("[8, 8, 8, 4, 8]", "[8, 8, 8, true, 8]", "must be a list of whole numbers"),
        ("encoder-layer-num-subtransformer: 6", "encoder-layer-num-subtransformer: 4", "networks of HAT have 6"),
        ("encoder-embed-dim-subtransformer: 512", "encoder-embed-dim-subtransformer: !!x", "must be a whole number"),
        ("encoder-embed-dim-subtransformer", "encoder-embed-dims-subtransformer", "did you mean 'encoder-embed-dim'"),
        ("encoder-embed-dim", "decoder-embed-dim", "line 3: 'decoder-embed-dim' is there twice"),
        ("# -1:", "-1:", "is no line of a network"),
    ],
)
def test_a_file_of_something_else_is_one_line(old, new, says):
    assert FILE.count(old) == 1
    with pytest.raises(BadInput) as refused:
        from_text(FILE.replace(old, new), "wmt14ende")
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_what_there_is_not_is_one_line():
    with pytest.raises(BadInput, match=r"no task 'wmt14deen'; did you mean"):
        hat("wmt14deen")
    for wrong in ({"ffn": [512, 4096]}, {"heads": []}, {"heads": "2"}, {"heads": [2.0]}):
        with pytest.raises(BadInput, match="give a list of some of"):
            hat(**wrong)
    with pytest.raises(BadInput, match="has no shared program"):
        hat().supernet()
    with pytest.raises(BadInput, match="is no choice between operations"):
        mixed_supernet(hat(), SMALL)
    with pytest.raises(BadInput, match="an even number"):
        hat().layers(np.zeros(hat().length, np.int32), Macro(1, 1, (7,), 20))
