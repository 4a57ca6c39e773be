"""HAT's transformers for translation: encoder and decoder whose layers have widths and heads of their own.

Wang et al., "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing", ACL 2020, and its code. Six
encoder layers, one to six decoder layers; queries, keys and values have 512 channels whatever the width and the heads;
norms come after the residual sum; a decoder layer attends to the outputs of the last one, two or three encoder layers
("arbitrary encoder-decoder attention": -1, 1 and 2), one after the other as one sequence. A network reads the source
and, after it, as many tokens of the target (as far as it is written), and gives scores for the next of those.

Paper, code and data name different options. The options here are those that HAT's latency files were sampled from
(``configs/*/latency_dataset``, every option of which is in the files). Its SuperTransformers were trained with fewer:
feed-forward widths 1024, 2048 and 3072 with 4 and 8 heads for WMT, 512, 1024 and 2048 with 2 and 4 heads for IWSLT;
the paper names those of WMT. Where we differ: sinusoids are of the network's own width, where HAT cuts those of its
SuperTransformer; dropout is the recipe's.

There are no shared weights and no BLEU here: what is published are latencies, see `experiments.hat`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nas.errors import BadInput, suggest
from nas.space import Decision, Macro, SearchSpace

EMBED_DIMS, FFN_DIMS, HEADS = (512, 640), (512, 1024, 2048, 3072), (2, 4, 8)
ENCODER_LAYERS, DECODER_LAYERS = 6, (1, 2, 3, 4, 5, 6)
ATTENDED = {-1: 1, 1: 2, 2: 3}  # option of arbitrary encoder-decoder attention -> encoder layers attended to
QKV = 512  # channels of queries, keys and values
# where decisions stand in a row: the two widths, the decoder's depth, then (ffn, heads) of each encoder layer and
# (ffn, heads, heads to the encoder, layers attended to) of each decoder layer
ENCODER, DECODER = 3, 3 + 2 * ENCODER_LAYERS
LENGTH = DECODER + 4 * max(DECODER_LAYERS)


class Task(NamedTuple):
    """What HAT translates.

    Attributes:
        tokens: of a sentence, source and target alike, as its latencies were measured.
        vocabulary: of the target; as fairseq counts its dictionary, end of sentence and padding included.
        source: vocabulary of the source where it is another one, and no table is shared; None: one table for source,
            target and scores.
    """

    tokens: int
    vocabulary: int
    source: int | None = None


TASKS = {
    "wmt14ende": Task(30, 32768),
    "wmt14enfr": Task(30, 44512),
    "wmt19ende": Task(30, 49600),
    "iwslt14deen": Task(23, 6632, 8848),
}


def hat(task: str = "wmt14ende", ffn: Sequence[int] = FFN_DIMS, heads: Sequence[int] = HEADS) -> SearchSpace:
    """Some 10^19 networks. Decoder layers that are not there choose option 0.

    Args:
        task: ``wmt14ende``, ``wmt14enfr``, ``wmt19ende`` or ``iwslt14deen``: length of a sentence and vocabulary.
        ffn: widths of feed-forward layers, some of 512, 1024, 2048 and 3072.
        heads: of all attention, some of 2, 4 and 8.

    Raises:
        BadInput: another task, or options that no latency was measured of.
    """
    if task not in TASKS:
        raise BadInput(f"hat: no task '{task}'; {suggest(str(task), TASKS)}")
    for name, given, known in (("ffn", ffn, FFN_DIMS), ("heads", heads, HEADS)):
        listed = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
        if not listed or not all(type(option) is int and option in known for option in given):
            raise BadInput(f"hat: {name} is {str(given)[:40]}; give a list of some of {', '.join(map(str, known))}")
    ffn, heads = tuple(ffn), tuple(heads)
    decisions = [Decision("encoder_embed_dim", EMBED_DIMS), Decision("decoder_embed_dim", EMBED_DIMS)]
    decisions.append(Decision("decoder_layer_num", DECODER_LAYERS))
    for i in range(ENCODER_LAYERS):
        decisions += [Decision(f"encoder_{i}_ffn_embed_dim", ffn), Decision(f"encoder_{i}_self_attention_heads", heads)]
    for i in range(max(DECODER_LAYERS)):
        decisions += [Decision(f"decoder_{i}_ffn_embed_dim", ffn), Decision(f"decoder_{i}_self_attention_heads", heads)]
        decisions.append(Decision(f"decoder_{i}_ende_attention_heads", heads))
        decisions.append(Decision(f"decoder_{i}_arbitrary_ende_attn", tuple(ATTENDED)))
    # option of decoder_layer_num from which on each decision counts
    since = [0] * DECODER + [i for i in range(max(DECODER_LAYERS)) for _ in range(4)]

    def allowed(row, i):
        free = np.ones(len(decisions[i].options), bool)
        return free if not since[i] else free & ((row[2] >= since[i]) | (np.arange(len(free)) == 0))

    counts = jnp.asarray([len(decision.options) for decision in decisions])

    def sample(uniform):  # as the rules would draw it, in one step instead of one after the other
        row = jnp.minimum((uniform * counts).astype(jnp.int32), counts - 1)
        return jnp.where(row[2] >= jnp.asarray(since), row, 0)

    about = TASKS[task]
    return SearchSpace(
        name="hat",
        decisions=tuple(decisions),
        network=functools.partial(network, source=about.source),
        macro=Macro(max(EMBED_DIMS), ENCODER_LAYERS, (2 * about.tokens,), about.vocabulary),
        allowed_of=allowed,
        sample_of=sample,
        supernet_of=_no_supernet,
        factors=factor_groups(),
        arguments={"task": task, "ffn": list(ffn), "heads": list(heads)},
    )


def factor_groups() -> tuple[tuple[int, ...], ...]:
    """What costs add over: each block by its own choices, the widths it reads and writes, and whether it is there."""
    groups: list[tuple[int, ...]] = []
    for at in range(ENCODER, DECODER):
        groups.append((0, at))
    for at in range(DECODER, LENGTH, 4):
        depth = () if at == DECODER else (2,)  # the first layer is always there
        groups += [(1, *depth, at), (1, *depth, at + 1), (0, 1, *depth, at + 2, at + 3)]
    return tuple(groups)


def network(net, macro: Macro, *, source: int | None = None):
    """From tokens (2 T,), source and target, to scores (T, vocabulary). Width and depth of the macro are not read."""
    if len(macro.input) != 1 or macro.input[0] % 2:
        shown = "x".join(map(str, macro.input))
        raise BadInput(
            f"macro: input is {shown}; networks of 'hat' translate: source and as long a target, an even number"
        )
    tokens, wide, narrow = macro.input[0] // 2, net.width("encoder_embed_dim"), net.width("decoder_embed_dim")
    layers = net.width("decoder_layer_num")
    if not isinstance(layers, int):
        raise BadInput(NO_SUPERNET)
    with net.block("embedding"):
        x, y = _embedded(net, tokens, macro.classes, source, (wide, narrow))
    encoded = []
    for i in range(ENCODER_LAYERS):
        with net.scope(f"encoder.{i}"):
            x = _attention(net, x, [x], wide, net.width(f"encoder_{i}_self_attention_heads"), "self_attention")
            x = _feed_forward(net, x, wide, net.width(f"encoder_{i}_ffn_embed_dim"))
        encoded.append(x)
    for i in range(layers):
        own, across = (net.width(f"decoder_{i}_{kind}_attention_heads") for kind in ("self", "ende"))
        seen = encoded[: -1 - net.width(f"decoder_{i}_arbitrary_ende_attn", ATTENDED.__getitem__) : -1]
        with net.scope(f"decoder.{i}"):
            y = _attention(net, y, [y], narrow, own, "self_attention", causal=True)
            y = _attention(net, y, seen, narrow, across, "ende_attention")
            y = _feed_forward(net, y, narrow, net.width(f"decoder_{i}_ffn_embed_dim"))
    with net.block("head"):
        if source is None:
            return net.unembed(y, macro.classes, table="embedding.table")
        return net.linear(y, macro.classes, bias=False)


def _embedded(net, tokens: int, vocabulary: int, source: int | None, widths: tuple[int, int]) -> tuple[Any, Any]:
    """Source and target with their places; a shared table is as wide as the wider, the other reads a part of it."""
    if source is None:
        both = net.embedding(net.input, vocabulary, max(widths), name="table")
        spans = (0, tokens, "source"), (tokens, 2 * tokens, "target")
        pair = [net.span(both, a, b, channels=w, name=name) for (a, b, name), w in zip(spans, widths, strict=True)]
    else:
        read = net.span(net.input, 0, tokens, name="source")
        written = net.span(net.input, tokens, 2 * tokens, name="target")
        pair = [
            net.embedding(read, source, widths[0], name="source_table"),
            net.embedding(written, vocabulary, widths[1], name="table"),
        ]
    return net.placed(pair[0], name="source_placed"), net.placed(pair[1], name="target_placed")


def _attention(net, x: Any, seen: Sequence[Any], width: int, heads: int, kind: str, *, causal: bool = False) -> Any:
    with net.block(f"{kind}-heads:{heads}-layers:{len(seen)}", kind):
        kv = net.linear(net.join(seen), 2 * QKV, name="kv")
        attended = net.attend(net.linear(x, QKV, name="q"), kv, heads, causal=causal)
        return net.layer_norm(net.add([x, net.linear(attended, width, name="out")]))


def _feed_forward(net, x: Any, width: int, inner: int) -> Any:
    with net.block(f"feed_forward-features:{inner}", "feed_forward"):
        y = net.activation(net.linear(x, inner, name="up"))
        return net.layer_norm(net.add([x, net.linear(y, width, name="down")]))


NO_SUPERNET = (
    "space 'hat' has no shared program: what HAT publishes of its networks are latencies, which nas import table hat "
    "reads; they are described and priced, not trained"
)


def _no_supernet(space: SearchSpace, macro: Macro):
    raise BadInput(NO_SUPERNET)
