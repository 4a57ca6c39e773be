"""`nas measure`: a latency table of this machine, or a bundle that another one measures."""

from dataclasses import dataclass
from pathlib import Path

from experiments.cli import show
from experiments.options import accepted, frame, make_own, parse_sets, parse_shape, space_factory, split_sets
from hw_models.runtimes import pin
from nas.cost import load_cost
from nas.errors import BadInput
from nas.files import check_out
from nas.space import Macro
from search_spaces import SPACES


@dataclass
class Options:
    """The options of ``nas measure``, as typed."""

    space: str
    runtime: str
    networks: int
    set: list[str]
    width: int | None
    depth: int | None
    input: str | None
    classes: int | None
    batch: int
    dtype: str
    rounds: int
    threads: int | None
    seed: int
    out: Path | None
    bundle: Path | None
    json: bool


def main(o: Options) -> None:
    """Makes a table, or a bundle."""
    if (o.out is None) == (o.bundle is None):
        raise BadInput("measure: say where the table goes, --out cpu.json, or write a bundle, --bundle FOLDER")
    space = framed(o.space, o.set, o.width, o.depth, o.input, o.classes)
    if o.bundle is not None:
        return _bundle(space, o)
    if o.out.exists():
        load_cost(o.out)  # only a table is written over
    check_out(o.out, "nas.cost/1")
    if o.threads is not None:
        pin(o.threads)
    common = dict(runtime=o.runtime, batch=o.batch, dtype=o.dtype, rounds=o.rounds, seed=o.seed)
    common["path"] = o.out.with_suffix(".samples.json")
    cost, told = _whole(space, o.networks, common) if o.networks else _blocks(space, common)
    cost.save(o.out)
    tell(space, cost, told, o.out, o.json)


def tell(space, cost, told, out, as_json):
    """What was measured, under which conditions, and what to do with it."""
    stamp = cost.stamp
    if as_json:
        return show(told | {"out": str(out), "error": stamp.error, "device": stamp.device, "runtime": stamp.runtime})
    print(f"{space.name}, {frame(stamp.macro)}, batch {stamp.batch}, {stamp.dtype}: {stamp.device}, {stamp.runtime}")
    for label, value in told.items():
        print(f"  {label.replace('_', ' ')}: {value}")
    error = "not known" if stamp.error is None else f"{stamp.error:.1%}"
    print(f"Written to {out}, held-out error {error}; use it with: nas search --cost NAME={out}")


def framed(space, sets, width, depth, input, classes):
    """A space by name with its settings, at the frame that a person gave, else its own."""
    factory = space_factory(space, SPACES)
    arguments = split_sets(parse_sets(sets), {"space": accepted(factory)})["space"]
    made = make_own(space, factory, **arguments)
    macro = made.macro
    shape = parse_shape(input) if input else macro.input
    return made.at(Macro(width or macro.width, depth or macro.depth, shape, classes or macro.classes))


def _whole(space, networks, common):
    """Whole networks, and factors fitted to them."""
    from hw_models.fit import LEAST
    from hw_models.networks import fitted, measure_networks

    if networks < LEAST:
        raise BadInput(f"--networks {networks}: a table is fitted to at least {LEAST}; better 100, or 0 to time blocks")
    found = measure_networks(space, networks=networks, **common)
    cost = fitted(space, found, seed=common["seed"])
    return cost, describe_fitted(cost, found)


def describe_fitted(cost, found):
    """What a person is told of a table fitted to measured networks, label to text or number."""
    ms, details = sorted(found.latency_ms), cost.details
    figures = {name: round(details["fit"][name], 4) for name in ("spearman", "within_5", "within_10", "mape")}
    return {
        "networks": len(ms),
        "latency_ms": f"{ms[0]:.3g} to {ms[-1]:.3g}, median {ms[len(ms) // 2]:.3g}",
        "spread": f"{sorted(found.spread)[len(ms) // 2]:.1%} from quartile to quartile of {found.ms.shape[1]} rounds",
        **figures,
        "held_out": details["fit"]["held_out"],
        "notes": "; ".join(details["notes"]) or "nothing unusual seen",
    }


def _blocks(space, common):
    """Every block by itself, and the sum of them."""
    from hw_models.measure import measure

    cost = measure(space, **common)
    details = cost.details or {}
    checked = details["validation"]
    told = {
        "blocks": len(details["spread"]),
        "error_of_sum": f"{checked['error_of_sum']:.1%}, on {len(checked['networks'])} whole networks",
        "load": f"{details['load'][0]:.1f}" if details["load"] else "not known",
    }
    return cost, told


def _bundle(space, o):
    """Models for another machine."""
    from hw_models.bundle import write_bundle
    from hw_models.measure import reporting

    networks, folder = o.networks or 100, o.bundle
    with reporting(None) as report:
        step = lambda done, total: report(done, total, "writing models")  # noqa: E731
        manifest = write_bundle(space, folder, networks=networks, batch=o.batch, seed=o.seed, report=step)
    models = manifest["models"]
    size = sum(model["bytes"] for model in models)
    if o.json:
        return show({"bundle": str(folder), "models": len(models), "bytes": size})
    print(f"{len(models)} models of {space.name}, {frame(manifest['macro'])}, {size / 1e6:.1f} MB, in {folder}")
    print("On the device: python run.py --device NAME (Python and onnxruntime),")
    print("or for a phone on a cable: sh run_adb.sh /path/to/onnxruntime_perf_test")
    print(f"Then, with the folder back here: nas fit --results {folder} --out phone.json")
