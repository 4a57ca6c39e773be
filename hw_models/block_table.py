"""Published tables of block latencies, applied to a space through the block keys of its layers.

A table knows only some facts of a block (once-for-all's does not know groups, ProxylessNAS's no activation). A block of
ours is looked up by exactly the facts that its table states. What is missing is interpolated in the channels of the
depthwise convolution, between the nearest entries that agree in everything else, and refused where there are none on
both sides; it is never zero.
"""

import bisect
import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nas.config import macro_to_json
from nas.cost import Cost, Stamp, load_cost, read_stamp, tabulate_layers
from nas.errors import BadInput
from nas.evaluate import cache_root
from nas.files import read_json, to_json, write_json
from nas.layers import Layer, Shape, parse_block
from nas.space import Macro, SearchSpace

SCHEMA = "nas.blocks/1"
# facts of an inverted residual, in the order in which they stand in a key
FACTS = ("kernel", "stride", "mid", "groups", "se", "gated", "activation", "skip")
ANY = "any"  # of tables whose entries do not depend on the size of the whole image


@dataclass(frozen=True)
class BlockTable:
    """Figures of blocks.

    Attributes:
        stamp: what they are about; its macro is empty, because a table serves every frame that its blocks make up.
        facts: of `FACTS`, those that the table states for inverted residuals.
        entries: side of the whole image, or `ANY` -> key of `entry_key` -> figure in the stamp's unit.
        base: of what no entry stands for, such as stem and head together in TF-NAS; None where each block has its own.
    """

    stamp: Stamp
    facts: tuple[str, ...]
    entries: Mapping[str, Mapping[str, float]]
    base: float | None = None

    def price(self, layers: Sequence[Layer]) -> float:
        """The sum over the blocks of a network, each scope once.

        Raises:
            BadInput: a block that the table neither has nor can interpolate, or an image of another size.
        """
        blocks = {layer.scope: layer.block for layer in layers if layer.block}
        # of the image that the first block sees: a network may bring its input to another size
        side = str(parse_block(next(iter(blocks.values()))).inputs[0][0])
        known = self.entries.get(side) or self.entries.get(ANY)
        if known is None:
            raise BadInput(f"cost: the table has no images of side {side}; it has {', '.join(self.entries)}")
        total = self.base or 0.0
        for scope, key in blocks.items():
            total += self._block(known, key, scope)
        return total

    def _block(self, known: Mapping[str, float], key: str, scope: str) -> float:
        block = parse_block(key)
        if self.base is not None and block.kind in ("stem", "final_conv", "head", "pool", "feature_mix", "logits"):
            return 0.0
        if block.kind == "identity" and len(block.inputs) == 1 and block.inputs[0] == block.output:
            return 0.0  # a layer that is not there
        facts = {name: value for name, value in block.attributes.items() if name in self.facts}
        if "gated" in self.facts:
            facts["gated"] = int(bool(block.attributes.get("se", 0)))
        kind = "mbconv" if block.kind.startswith("mbconv") else block.kind
        wanted = entry_key(kind, block.inputs[0], block.output, facts if kind == "mbconv" else {})
        if wanted in known:
            return known[wanted]
        found = interpolated(known, kind, block.inputs[0], block.output, facts)
        if found is None:
            raise BadInput(f"cost: block '{wanted}' (at {scope}) is not in the table, and nothing to interpolate from")
        return found

    def cost(self, space: SearchSpace, macro: Macro) -> Cost:
        """The cost of a space's networks at one frame, kept in the user's cache: to price a large space takes time.

        Raises:
            BadInput: as `price`, or the sum does not add over the space's factors.
        """
        stamp = replace(self.stamp, macro=macro_to_json(macro))
        what = to_json([SCHEMA, asdict(self), space.fingerprint, asdict(stamp)])
        kept = cache_root() / "costs" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"
        with contextlib.suppress(BadInput):  # not there yet, or cut off
            return load_cost(kept, space)
        cost = tabulate_layers(space, macro, self.price, stamp)
        kept.parent.mkdir(parents=True, exist_ok=True)
        cost.save(kept)
        return cost

    def save(self, path: str | os.PathLike) -> None:
        """Writes JSON (atomically)."""
        write_json(path, {"schema": SCHEMA, **asdict(self)})


def entry_key(kind: str, ins: Shape, out: Shape, facts: Mapping[str, Any]) -> str:
    """``mbconv-kernel:5-stride:2-mid:144-input:56x56x24-output:28x28x40``."""
    stated = "".join(f"-{name}:{facts[name]}" for name in FACTS if name in facts)
    return f"{kind}{stated}-input:{'x'.join(map(str, ins))}-output:{'x'.join(map(str, out))}"


def interpolated(known: Mapping[str, float], kind: str, ins: Shape, out: Shape, facts: Mapping[str, Any]):
    """Linear in `mid` between the nearest entries on both sides, or None."""
    if "mid" not in facts:
        return None
    mark = "\0"
    before, after = entry_key(kind, ins, out, {**facts, "mid": mark}).split(mark)
    found = {}
    for key, value in known.items():
        if key.startswith(before) and key.endswith(after) and key[len(before) : len(key) - len(after)].isdigit():
            found[int(key[len(before) : len(key) - len(after)])] = value
    mids, mid = sorted(found), facts["mid"]
    at = bisect.bisect(mids, mid)
    if at in (0, len(mids)):
        return None
    return float(np.interp(mid, mids[at - 1 : at + 1], [found[m] for m in mids[at - 1 : at + 1]]))


def load_blocks(path: str | os.PathLike) -> BlockTable:
    """Reads what `BlockTable.save` wrote.

    Raises:
        BadInput: no such table, or entries that are no numbers above zero.
    """
    data = read_json(path, "block table")
    try:
        if data["schema"] != SCHEMA:
            raise BadInput(f"{path}: schema is {data['schema']!r}; this version reads {SCHEMA}")
        entries = {str(side): {str(k): float(v) for k, v in some.items()} for side, some in data["entries"].items()}
        base = None if data["base"] is None else float(data["base"])
        table = BlockTable(read_stamp(data["stamp"]), tuple(map(str, data["facts"])), entries, base)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path}: not a block table ({SCHEMA}): {' '.join(str(error).split())}") from None
    values = [v for some in entries.values() for v in some.values()] + [base or 0.0]
    if not entries or not (np.isfinite(values).all() and min(values[:-1], default=-1.0) > 0 and values[-1] >= 0):
        raise BadInput(f"{path}: holds entries that are no numbers above zero; import it again")
    return table
