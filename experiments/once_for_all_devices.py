"""An architecture for each device and limit from measured sub-networks: the last part of `experiments.once_for_all`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.accuracy_models import cross_checked
from hw_models.measure import measure
from hw_models.networks import fitted, measure_networks
from hw_models.readers import import_blocks
from nas.cost import Cost, load_cost
from nas.image_sets import roots
from nas.plots import COLOURS
from nas.space import SearchSpace
from nas.specialize import Target, specialize

LIMITS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)  # quantiles of the costs of random networks
SEEDS = 4
PUBLISHED = {
    "big cores": "cpu_b_ms",
    "little cores": "cpu_s_ms",
    "mobile GPU": "gpu_ms",
}


def devices(space: SearchSpace, rounds: int, out: Path) -> dict[str, Cost]:
    """Tables of the space at its own frame: measured here, fitted to whole networks measured here, and published.

    The published ones price the inverted residuals; stem and head, which all networks have alike, are left out.
    """
    found = {}

    def kept(name: str, make: Callable[[], Cost]) -> None:
        path = out / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            make().save(path)
        found[name] = load_cost(path, space)

    for name, batch in (("here, XLA", 1), ("here, XLA, batch 16", 16)):
        kept(name, lambda b=batch: measure(space, batch=b, rounds=rounds, path=out / f"samples_xla_{b}.json"))
    kept(
        "here, ONNX Runtime",
        lambda: fitted(
            space, measure_networks(space, networks=40, runtime="onnx", rounds=rounds, path=out / "samples_onnx.json")
        ),
    )
    sources = [root / "pipe_proxyless" / "cifar_tiny_blocks.csv" for root in roots()]
    source = next((path for path in sources if path.exists()), None)
    for name, column in PUBLISHED.items() if source else ():
        table, _ = import_blocks("big_little", source, column=column)
        kept(name, lambda t=table: replace(t, base=0.0).cost(space, space.macro))
    return found


def specialised(
    space: SearchSpace,
    rows: np.ndarray,
    accuracy: list[float],
    costs: Mapping[str, Cost],
    measured: Callable[[np.ndarray], dict[str, float]],
    seed: int,
) -> dict[str, Any]:
    """For each device the family of architectures found, predicted, and measured in the shared weights."""
    model = cross_checked(rows, np.asarray(accuracy), space, "measured sub-networks", seed)
    sample = np.asarray(space.sample(jax.random.key(seed + 2), 1000))
    limits = {name: np.quantile(np.asarray(cost(sample)), LIMITS) for name, cost in costs.items()}
    targets = [Target(name, costs[name], float(limit)) for name in costs for limit in limits[name]]
    found = specialize(space, model.predict, targets, seeds=SEEDS, seed=seed)
    entries = []
    for i, target in enumerate(targets):
        best = found.best(i)
        row = found.rows[i, best]
        entries.append(
            {"device": target.name, "limit": target.limit, "unit": target.cost.stamp.unit, "row": row.tolist()}
            | {"cost": float(found.cost[i, best]), "predicted": float(found.accuracy[i, best])}
            | {"measured": measured(row)["accuracy"]}
        )
    random = {name: [float(v) for v in np.asarray(cost(rows))] for name, cost in costs.items()}
    return {"predictor": model.held_out, "seconds": found.seconds, "networks": entries, "random": random} | {
        "random_accuracy": [float(a) for a in accuracy]
    }


def draw(told: Mapping[str, Any], path: Path) -> None:
    """Accuracy against latency: a panel for each device."""
    names = list(dict.fromkeys(e["device"] for e in told["networks"]))
    columns = 3
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(10, 3 * rows), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(rows, columns, sharey=True)), names, strict=False):
        own = [e for e in told["networks"] if e["device"] == name]
        axes.scatter(
            told["random"][name],
            [100 * a for a in told["random_accuracy"]],
            s=10,
            color=COLOURS["point"],
            label="random",
        )
        axes.plot([e["cost"] for e in own], [100 * e["measured"] for e in own], marker="o", label="found, measured")
        predicted = [100 * e["predicted"] for e in own]
        axes.plot([e["cost"] for e in own], predicted, linestyle=":", label="found, predicted")
        axes.set(title=name, xlabel=f"latency ({own[0]['unit']})")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.supylabel("accuracy in the shared weights (%)")
    figure.savefig(path, dpi=150)
