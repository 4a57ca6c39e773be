"""HAT's file of one network, ten lines such as ``decoder-ffn-embed-dim-all-subtransformer: [3072, 2048]``.

The files (``configs/*/subtransformer`` of its repository) do not say which task the network is for, their names do:
``HAT_wmt14ende_titanxp@126.0ms_bleu@27.9.yml``. They are read as text, line by line, not as YAML.
"""

import json
import re
from typing import Any

import numpy as np

from nas.errors import BadInput, suggest
from nas.space import SearchSpace
from search_spaces.hat import DECODER_LAYERS, ENCODER_LAYERS, TASKS, hat

LINE = re.compile(r"([a-z-]+)-subtransformer\s*:\s*(.*)")
# what a line is called -> a whole number, or a list by layer of this decision
WHOLE = ("encoder-embed-dim", "decoder-embed-dim", "encoder-layer-num", "decoder-layer-num")
LISTS = {
    "encoder-ffn-embed-dim-all": "encoder_{}_ffn_embed_dim",
    "decoder-ffn-embed-dim-all": "decoder_{}_ffn_embed_dim",
    "encoder-self-attention-heads-all": "encoder_{}_self_attention_heads",
    "decoder-self-attention-heads-all": "decoder_{}_self_attention_heads",
    "decoder-ende-attention-heads-all": "decoder_{}_ende_attention_heads",
    "decoder-arbitrary-ende-attn-all": "decoder_{}_arbitrary_ende_attn",
}


def task_of(name: str) -> str | None:
    """The task in the name of one of HAT's files; None where there is none."""
    return next((word for word in re.split(r"[^a-z0-9]+", name.lower()) if word in TASKS), None)


def from_text(text: str, task: str) -> tuple[SearchSpace, np.ndarray]:
    """(space, row) of a network. Lists may be longer than there are layers, as HAT's search gives them.

    Raises:
        BadInput: a line that is none of the ten or is there twice, one that is missing, or options that the space has
            not.
    """
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.partition("#")[0].strip()):
            continue
        match = LINE.fullmatch(line)
        name = match[1] if match else line.partition(":")[0][:40]
        if match is None or name not in (*WHOLE, *LISTS):
            raise BadInput(f"hat, line {number}: '{name}' is no line of a network; {suggest(name, (*WHOLE, *LISTS))}")
        if name in found:
            raise BadInput(f"hat, line {number}: '{name}' is there twice")
        found[name] = _value(name, match[2], number)
    missing = next((name for name in (*WHOLE, *LISTS) if name not in found), None)
    if missing is not None:
        raise BadInput(f"hat: the line '{missing}-subtransformer: ...' is missing")
    if found["encoder-layer-num"] != ENCODER_LAYERS:
        raise BadInput(f"hat: encoder-layer-num is {found['encoder-layer-num']}; networks of HAT have {ENCODER_LAYERS}")
    space = hat(task)
    choices = {name.replace("-", "_"): found[name] for name in WHOLE if name != "encoder-layer-num"}
    options = {decision.name: decision.options for decision in space.decisions}
    for name, decision in LISTS.items():
        encoder = name.startswith("encoder")
        layers = ENCODER_LAYERS if encoder else found["decoder-layer-num"]
        if len(found[name]) < layers:
            raise BadInput(f"hat: {name} has {len(found[name])} entries; there are {layers} layers")
        for i in range(ENCODER_LAYERS if encoder else max(DECODER_LAYERS)):
            own = decision.format(i)
            choices[own] = found[name][i] if i < layers else options[own][0]
    return space, space.encode(choices)


def _value(name: str, text: str, number: int) -> Any:
    what = "a list of whole numbers" if name in LISTS else "a whole number"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    each = value if name in LISTS and isinstance(value, list) else [value] if name in WHOLE else [None]
    if not all(type(one) is int and abs(one) < 10**6 for one in each):
        raise BadInput(f"hat, line {number}: {name} is '{text[:40]}'; it must be {what}")
    return value


def to_text(space: SearchSpace, row: np.ndarray) -> str:
    """A row as HAT writes it, of layers that are there alone."""
    chosen = space.decode(row)
    depth = chosen["decoder_layer_num"]
    lines: list[tuple[str, Any]] = [("encoder-layer-num", ENCODER_LAYERS)]
    lines += [(name, chosen[name.replace("-", "_")]) for name in WHOLE if name != "encoder-layer-num"]
    for name, decision in LISTS.items():
        layers = ENCODER_LAYERS if name.startswith("encoder") else depth
        lines.append((name, [chosen[decision.format(i)] for i in range(layers)]))
    return "\n".join(f"{name}-subtransformer: {json.dumps(value)}" for name, value in lines)
