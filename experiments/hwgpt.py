"""HW-GPT-Bench's tables: costs of its language models on 14 devices, and their perplexities.

Sukthanker et al., "HW-GPT-Bench", NeurIPS 2024. A file holds 10,000 networks of one scale: latencies in ms (medians of
ten runs), energies, memory, perplexity on OpenWebText with the weights of a supernet, parameters and operations.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.accuracy_models import AccuracyModel
from experiments.fit_command import read_values
from experiments.tables import Columns, column, read_csv
from hw_models.fit import MOST, agreement, fit, regress, usable
from nas.config import macro_to_json
from nas.cost import Cost, Stamp
from nas.errors import BadInput, suggest
from nas.layers import counts
from nas.objective import UNITS
from nas.space import SearchSpace
from search_spaces.gpt import FIRST, MLP_RATIOS, SCALES, gpt

# how a column of a device is called for a quantity, and from its unit to ours. The files call energies kWh; only Wh
# fits their power and latency
NAMES = {"latency": ("{}_ms", 1.0), "energy": ("{}_energy_wh", 3.6e6), "memory": ("mem_{}_mb", 1e6)}
CAVEAT = {"energy": "energies of this benchmark rank networks, their size is not to be relied on; "}
LEAST_NETWORKS = 50
CHECKED = 3  # networks whose counts are compared with those of the file when it is read


class Table(NamedTuple):
    """One file.

    Attributes:
        space: the scale that its networks are of.
        rows: int32[N, L].
        columns: as they stand there.
        batch: sequences of a call, which its operations tell.
    """

    space: SearchSpace
    rows: np.ndarray
    columns: Columns
    batch: int


def read(path: Path) -> Table:
    """One file, its scale found by the widths in it; choices of layers that are not there are set to option 0.

    Raises:
        BadInput: no such table, or counts that are not those of the networks it names.
    """
    columns = read_csv(path)
    names = ("embed_dim", "n_layer", "bias", "n_head", "mlp_ratio")
    texts = {name: column(columns, name, str(path)) for name in names}
    known = {str(width): scale for scale, size in SCALES.items() for width in size.embed_dims}
    scale = known.get(texts["embed_dim"][0].strip())
    if scale is None:
        raise BadInput(f"{path}, row 1: embed_dim '{texts['embed_dim'][0][:20]}' is none of {', '.join(known)}")
    size, space = SCALES[scale], gpt(scale)
    options = [{str(o): i for i, o in enumerate(d.options)} for d in space.decisions[:FIRST]]
    heads, ratios = ({str(o): i for i, o in enumerate(own)} for own in (size.heads, MLP_RATIOS))
    rows = np.zeros((len(texts["bias"]), space.length), np.int32)
    for at, (*first, by_head, by_ratio) in enumerate(zip(*texts.values(), strict=True)):
        try:
            rows[at, :FIRST] = [own[text.strip()] for own, text in zip(options, first, strict=True)]
            layers = int(first[1])
            rows[at, FIRST : FIRST + 2 * layers : 2] = [heads[h] for h in by_head.split("-")[:layers]]
            rows[at, FIRST + 1 : FIRST + 2 * layers : 2] = [ratios[r] for r in by_ratio.split("-")[:layers]]
        except (KeyError, ValueError) as error:
            raise BadInput(f"{path}, row {at + 1}: {error} is no option of scale '{scale}'") from None
    table = Table(space, rows, columns, 1)
    return table._replace(batch=_batch(table, str(path)))


def _batch(table: Table, where: str) -> int:
    """Sequences of a call, by the operations of the first networks.

    The file counts two a multiply-accumulate, five a value of a layer norm and one a value of an activation.
    """
    told = [read_values(table.columns, name, where) for name in ("params", "flops")]
    found = set()
    for row, params, flops in zip(table.rows[:CHECKED], *told, strict=False):
        layers = table.space.layers(row)
        values = {
            op: sum(math.prod(x.output_shape) for x in layers if x.op == op) for op in ("layer_norm", "activation")
        }
        counted = counts(layers)
        found.add(flops / (2 * counted.macs + 5 * values["layer_norm"] + values["activation"]))
        if counted.params != params:
            raise BadInput(
                f"{where}: params is {params:.0f} where the network has {counted.params}; another benchmark?"
            )
    if len(found) != 1 or min(found) % 1:
        raise BadInput(f"{where}: flops are not those of the networks it names; is it of HW-GPT-Bench?")
    return int(min(found))


def cost(path: Path, device: str | None, quantity: str, *, seed: int = 0) -> Cost:
    """A table of a device, fitted to `MOST` of the file's networks; its error is that on the others.

    Raises:
        BadInput: no such device or quantity, and as `read`.
    """
    if quantity not in NAMES:
        raise BadInput(f"--quantity: HW-GPT-Bench has no '{quantity}'; {suggest(quantity, NAMES)}")
    table, (pattern, factor) = read(path), NAMES[quantity]
    before, _, after = pattern.partition("{}")
    held = [name for name in table.columns if name.startswith(before) and name.endswith(after)]
    known = [name.removeprefix(before).removesuffix(after) for name in held]
    if device not in known:
        raise BadInput(f"--column: say for which device {quantity} is wanted; {suggest(str(device), known)}")
    values = read_values(table.columns, pattern.format(device), str(path)) * factor
    good = usable(values)
    if not good.all():
        print(f"nas: {path}: {(~good).sum()} figures are missing or near zero and left out", file=sys.stderr)
    frame, source = macro_to_json(table.space.macro), f"{CAVEAT.get(quantity, '')}HW-GPT-Bench, {path.name}"
    stamp = Stamp(quantity, UNITS[quantity][0], str(device), "PyTorch", table.batch, "bfloat16", frame, source)
    made = fit(table.space, table.rows[good], values[good], stamp, seed=seed)
    return replace(made, details={**(made.details or {}), "scale": table.space.arguments["scale"]})


def perplexities(path: Path, seed: int = 0) -> tuple[SearchSpace, AccuracyModel]:
    """The scale of a file, and perplexity as a sum over layers, fitted to at most `MOST` networks or four fifths.

    The error is that on the others.

    Raises:
        BadInput: too few networks with a perplexity, and as `read`.
    """
    table = read(path)
    space, y = table.space, read_values(table.columns, "perplexity", str(path))
    known = np.flatnonzero(np.isfinite(y) & (y > 1))
    if len(known) < LEAST_NETWORKS:
        raise BadInput(f"{path}: {len(known)} networks have a perplexity; a predictor needs {LEAST_NETWORKS}")
    known = np.random.default_rng(seed).permutation(known)
    train, test = np.split(known, [min(MOST, math.ceil(0.8 * len(known)))])
    base, factors, _ = regress(space, table.rows[train], y[train])
    model = Cost(Stamp("latency", "ms", "", "", 1, "", {}, ""), base, factors)
    found = agreement(model(table.rows[test]), y[test])
    held_out = {"spearman": found["spearman"], "mape": found["mape"], "networks": len(train), "tested": len(test)}
    source = f"a sum over layers fitted to {len(train)} networks of {path.name}"
    return space, AccuracyModel(lambda rows: 1 / model(rows), source, held_out, metric="perplexity")
