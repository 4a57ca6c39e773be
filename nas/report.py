"""report.html: one self-contained page about a search, honest about what each figure is and is not."""

import dataclasses
import io
import itertools
import math
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nas.ablation import ablation
from nas.cost import Cost, cost_column
from nas.draw import draw_network
from nas.errors import BadInput
from nas.files import to_json, write_atomic
from nas.page import escape, json_tree, section, style, table
from nas.plots import COLOURS, pareto_plot, search_curve
from nas.result import Result, Trial
from nas.space import Macro
from nas.summary import NO_REASON, Baselines, baseline_rows, baselines, counts_text, finished, front_volume, why_nothing
from nas.training_plots import curves, gates_over_time
from nas.wording import column_of, cost_columns, cost_name, cost_text, duration, hours_text, number, value_text

TOP = 10


def write_report(
    result: Result,
    folder: str | os.PathLike,
    *,
    config: dict | None,
    search: dict | None,
    costs: Mapping[str, Cost],
    trained: dict | None = None,
    baseline: Result | None = None,
    measured: Mapping[str, Mapping] | None = None,
) -> Path:
    """Writes ``report.html`` into the folder (atomically) and gives its path.

    Args:
        result: of the search, finished or not; one without any finished trial gets a report too.
        folder: exists already.
        config: the found architecture as ``best.json`` holds it, or None.
        search: the search as ``search.json`` holds it, or None.
        costs: name -> cost, for the stamps; what is in the result without a stamp here is said to have none.
        trained: metrics of the found network after its own training, where there was one.
        baseline: of random search run on its own with the same budget, where there was one.
        measured: of the found network as a whole, name of a latency table -> ``predicted_ms``, ``device``, and either
            ``measured_ms``, ``spread`` (interquartile range over median) and ``notes``, or ``why_not``.
    """
    path = Path(folder) / "report.html"
    page = render(
        result, config=config, search=search, costs=costs, trained=trained, baseline=baseline, measured=measured
    )
    write_atomic(path, page)
    return path


def render(
    result: Result,
    *,
    config: dict | None,
    search: dict | None,
    costs: Mapping[str, Cost],
    trained: dict | None = None,
    baseline: Result | None = None,
    measured: Mapping[str, Mapping] | None = None,
) -> str:
    """The page as text; see `write_report`."""
    found = baselines(result)
    search = search or {}
    stamps = {cost_column(name, cost): cost for name, cost in costs.items()}
    title = f"Search of {result.space.name}"
    parts = [
        f"<h1>{escape(title)}</h1><p class=lead>{_sentence(result)}</p>{_notes(result)}",
        _tiles(result, found, stamps),
        section("The search", _curve(result)),
        section("The shared weights", _training(result)),
        section("Accuracy against cost", _pareto(result)),
        section("The found network", _network(result, config)),
        section("Held against", _baselines(found, baseline)),
        section("Best trials", _top(result)),
        section("One change from the found network", ablation(result)),
        section("What was measured", _measured(result, search, stamps, trained)),
        section("The found network, predicted and measured", _predicted(measured or {})),
        section("What the costs are about", _stamps(result, stamps)),
        section("Failed trials", _failed(result, found)),
        section("How to go on", _next(result, config)),
        section(
            "Files", json_tree("Architecture config (best.json)", config) + json_tree("Search (search.json)", search)
        ),
    ]
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{style()}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main></body></html>\n"
    )


# ---- top of the page -----------------------------------------------------------------------------------------------
def _sentence(result):
    told = sum(t.status != "pending" for t in result.trials)
    after = f"after {told} trial{'s' * (told != 1)} in {duration(result.seconds)}"
    if result.best is None:
        return f"Found nothing: {escape(why_nothing(result))} ({after})."
    metric, best = result.objective.metric, result.best
    named = [f"{escape(metric)} <b>{number(best.metrics.get(metric, math.nan))}</b>"]
    named += [f"{escape(cost_name(c))} <b>{escape(cost_text(c, best.metrics[c]))}</b>" for c in _shown_costs(result)]
    return f"Found trial {best.id}: {', '.join(named)}, {after}."


def _shown_costs(result):
    """Costs worth a tile: those that were measured or read by the objective, and the parameters."""
    columns = [c for c in cost_columns(result) if c in result.best.metrics]
    read = len(dict.fromkeys([*result.objective.costs, *(x.cost for x in result.objective.limits)]))
    return [c for i, c in enumerate(columns) if i < read or c not in ("macs", "memory_bytes")][:4]


def _notes(result):
    notes = [] if result.complete else ["The search ended before its budget was used; this is its state so far."]
    if any(t.random for t in result.trials) and all(t.random for t in result.trials):
        notes.append("Every candidate was a random sample, so the search is its own random baseline.")
    return "".join(f"<p class=note>{n}</p>" for n in notes)


def _tiles(result, found, stamps):
    tiles = []
    if result.best:
        metric = result.objective.metric
        tiles.append((metric, number(result.best.metrics.get(metric, math.nan)), "of the found trial, in the search"))
        for column in _shown_costs(result):
            conditions = _conditions(stamps.get(column))
            tiles.append((cost_name(column), cost_text(column, result.best.metrics[column]), conditions))
    if found.random and math.isfinite(found.random.best) and math.isfinite(found.found):
        gain = found.found - found.random.best
        tiles.append(("over best random sample", f"{gain:+.4g}", f"{found.score}; estimate, n = {found.random.n}"))
    tiles.append(("trials", str(len(result.trials)), counts_text(found)))
    tiles.append(("spent", duration(result.device_seconds), f"{hours_text(found.device_hours)} on candidates"))
    cards = (f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd><small>{escape(c)}</small></div>" for a, b, c in tiles)
    return f"<dl class=tiles>{''.join(cards)}</dl>"


def _conditions(cost):
    if cost is None:
        return "without a stamp"
    s = cost.stamp
    if s.runtime == "closed form":
        return "counted from the layers" + (f", batch {s.batch}, {s.dtype}" if s.quantity == "memory" else "")
    return f"{s.device}, batch {s.batch}, {s.dtype}"


# ---- pictures ------------------------------------------------------------------------------------------------------
_pictures = itertools.count()


def _svg(figure: Figure, label: str) -> str:
    """Inline SVG that needs nothing from outside and follows the page's colours."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "nas", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # ids are unique in a picture; on a page of several they have to be made so
    prefix = f"p{next(_pictures)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace('href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    width = 72 * figure.get_size_inches()[0]
    svg = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{escape(label)}">', svg, count=1
    )
    return f'<figure style="max-width:{width:.0f}pt">{svg.strip()}</figure>'


def _curve(result):
    if not finished(result):
        return "<p>No trial finished, so there is no curve.</p>"
    text = "Score of each trial in the order of asking. "
    if sum(t.random and t.feasible for t in result.trials) > 1:
        text += (
            "The dashed line is what random search would be expected to have found after as many trials, estimated by "
            "drawing with replacement from this search's own random samples; it cannot exceed the best of them."
        )
    return _svg(search_curve(result), "Score over trials") + f"<p>{text}</p>"


def _training(result):
    training = result.training
    if not training or not any(run["epochs"] for run in training["runs"]):
        return ""
    parts = [_svg(curves(training), "Training of the shared weights")]
    parts.append(
        "<p>Means over the steps of an epoch, a line for each seed. A triangle marks an epoch after which a guard "
        "acted or a phase began. Accuracies of the trials are those in the shared weights, with batch norm "
        "recalibrated for each; <code>accuracy_uncalibrated</code> in trials.csv is without. They rank architectures, "
        "and are not what one reaches on its own.</p>"
    )
    first = [entry["gates"] for entry in training["runs"][0]["epochs"] if "gates" in entry]
    if first and "edges" in training:
        picture = gates_over_time(first, training["edges"], training["options"])
        seed = training["runs"][0]["seed"]
        parts.append(
            _svg(picture, "Gates over time") + f"<p>The share of each option over the epochs, seed {seed}.</p>"
        )
    events = [
        (str(run["seed"]), str(entry["epoch"]), event.get("guard") or event.get("phase") or "", event.get("why", ""))
        for run in training["runs"]
        for entry in run["epochs"]
        for event in entry["events"]
    ]
    if events:
        parts.append(table(("seed", "epoch", "what", "why"), [[escape(x) for x in row] for row in events]))
    return "".join(parts)


def _pareto(result):
    if not finished(result):
        return ""
    text = "The front joins the trials that no other beats in both accuracy and cost; hollow ones break a limit."
    if volume := front_volume(result):
        costs = {name: -value for name, value in volume[1].items() if name != result.objective.metric}
        corner = volume[1] | costs  # scores of costs are negative
        named = ", ".join(f"{name} {number(value)}" for name, value in corner.items())
        text += (
            f" Its hypervolume is {number(volume[0])} from the reference point {escape(named)}, the worst on each axis."
        )
    return _svg(pareto_plot(result), "Accuracy against cost") + f"<p>{text}</p>"


def _network(result, config):
    if result.best is None:
        return ""
    choices = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value_text(value))}</td></tr>"
        for name, value in result.space.decode(result.best.row).items()
    )
    table = f"<details open><summary>Choices</summary><table class=narrow>{choices}</table></details>"
    try:
        macro = Macro(**config["macro"]) if config and config.get("macro") else None
        picture = _svg(draw_network(result.space.layers(result.best.row, macro)), "The found network")
    except (BadInput, TypeError) as error:
        return f"<p>No drawing: {escape(str(error))}</p>{table}"
    return f"{picture}<p>Shapes are height×width×channels of one image. A box is a block measured as one.</p>{table}"


# ---- tables --------------------------------------------------------------------------------------------------------
def _baselines(found: Baselines, run: Result | None) -> str:
    rows = [("this search", number(found.found), f"best {found.score} within the limits"), *baseline_rows(found)]
    text = ""
    if run is not None:
        best = number(float(run.best.scores[0])) if run.best else "–"
        how = f"best of a random search of its own with the same budget: {counts_text(baselines(run))}; one seed"
        rows.insert(1, ("random search, run in full", best, how))
    else:
        if found.random:
            text = "Random search is an <b>estimate from this search's own random samples</b>, no separate run. "
        text += "<code>nas search … --baseline random</code> runs it in full with the same budget. "
    text += (
        "Parameters and FLOPs are baselines too: where they rank candidates as well as training does, training told "
        "little."
    )
    return table(("", "result", "how it was come by"), [[escape(x) for x in row] for row in rows]) + f"<p>{text}</p>"


def _top(result):
    done = sorted(finished(result), key=lambda t: (not t.feasible, -float(t.scores[0]), t.id))[:TOP]
    if not done:
        return ""
    columns = [c for c in cost_columns(result) if all(c in t.metrics for t in done)]
    metric = result.objective.metric
    reward = ["reward"] if result.objective.kind == "mnasnet" else []
    epochs = ["epochs"] if any("epochs" in t.metrics for t in done) else []
    short = {"macs": "macs", "params": "params", "memory_bytes": "memory"}
    head = ["trial", metric, *reward, *(short.get(c, cost_name(c)) for c in columns), *epochs, "choices"]
    rows = []
    for trial in done:
        cells = [str(trial.id), number(trial.metrics[metric])]
        cells += [number(float(trial.scores[0])) for _ in reward]
        cells += [cost_text(c, trial.metrics[c]) for c in columns]
        cells += [number(trial.metrics.get("epochs", math.nan)) for _ in epochs]
        marks = ("random sample; " if trial.random else "") + ("" if trial.feasible else "breaks a limit; ")
        choices = f"<small><em>{marks}</em>{escape(_choices(result, trial))}</small>"
        rows.append([*(f"<span class=figure>{escape(c)}</span>" for c in cells), choices])
    return table(head, rows) + f"<p>The best {len(rows)} of {len(finished(result))} finished trials.</p>"


def _choices(result, trial: Trial):
    text = ", ".join(value_text(v) for v in result.space.decode(trial.row).values())
    return text if len(text) <= 160 else text[:157] + "..."


def _measured(result, search, stamps, trained):
    evaluation, strategy = search.get("evaluation") or {}, search.get("strategy") or {}
    recipe = evaluation.get("recipe") or {}
    split = evaluation.get("split")
    epochs = f" after {recipe['epochs']} epochs" if "epochs" in recipe else ""
    measured = (
        f"{result.objective.metric} on the {split} split{epochs}"
        if split
        else (f"{result.objective.metric} as the evaluation function gives it; on which data is not recorded")
    )
    rows = [("figures of the search", measured)]
    if split:
        rows.append(("", "The strategy chose by this figure, so for the found network it is optimistic."))
    rows += [("data", value_text(evaluation["data"]))] if "data" in evaluation else []
    if strategy:
        arguments = ", ".join(f"{k}={v}" for k, v in (strategy.get("arguments") or {}).items())
        rows.append(("strategy", f"{strategy.get('name')}" + (f" ({arguments})" if arguments else "")))
    rows.append(("objective", _objective(result, stamps)))
    rows += [
        (name, value_text(search[name])) for name in ("seed", "executor", "created") if search.get(name) is not None
    ]
    for key, value in (search.get("versions") or {}).items():
        rows += [(key, value_text(value))] if key in ("python", "jax", "ray") and value != "absent" else []
    for name, value in (trained or {}).items():
        rows.append(
            (
                f"after its own training: {name}",
                to_json(value, indent=None)
                if isinstance(value, dict)
                else number(value)
                if isinstance(value, float)
                else value_text(value),
            )
        )
    if not trained:
        rows.append(("trained in full", "not yet: no figure on a test split is known"))
    rows.append(
        (
            "device time",
            f"{hours_text(result.device_seconds / 3600)}, wall time of this call {duration(result.seconds)}",
        )
    )
    return table((), [[f"<b>{escape(a)}</b>", escape(b)] for a, b in rows])


def _objective(result, stamps):
    o = result.objective
    known = [*cost_columns(result), *stamps]
    with_unit = lambda name, value: cost_text(column, value) if (column := column_of(name, known)) else f"{value:g}"  # noqa: E731
    text = {"accuracy": o.metric, "pareto": " against ".join([o.metric, *o.costs])}.get(o.kind, "")
    if o.kind == "mnasnet":
        target = with_unit(o.costs[0], o.target)
        text = f"{o.metric} × ({o.costs[0]} / {target}) ^ ({o.alpha:g} below, {o.beta:g} above the target)"
    return text + "".join(f"; {x.cost} at most {with_unit(x.cost, x.value)}" for x in o.limits)


def _predicted(measured):
    rows = []
    for name, found in measured.items():
        predicted, took, said = f"{found['predicted_ms']:.4g} ms", "–", found.get("why_not")
        if said is None:
            took, off = f"{found['measured_ms']:.4g} ms", found["predicted_ms"] / found["measured_ms"] - 1
            said = "; ".join([f"predicted {off:+.1%}, rounds spread {found['spread']:.1%}", *found["notes"]])
        rows.append([escape(x) for x in (name, predicted, took, found["device"], said)])
    return table(("table", "predicted", "measured here", "device", ""), rows) if rows else ""


def _stamps(result, stamps):
    rows = []
    for column in dict.fromkeys([*cost_columns(result), *stamps]):
        cost = stamps.get(column)
        if cost is None:
            rows.append([escape(cost_name(column)), "<em>no stamp was handed to the report</em>", *[""] * 6])
            continue
        s = dataclasses.asdict(cost.stamp)
        macro = ", ".join(f"{k} {value_text(v)}" for k, v in s["macro"].items())
        source = s["source"] + (f", held-out error {s['error']:.1%}" if s["error"] is not None else "")
        cells = (
            cost_name(column),
            s["device"],
            s["runtime"],
            str(s["batch"]),
            s["dtype"],
            macro,
            source,
            s["created"] or "–",
        )
        rows.append([escape(x) for x in cells])
    head = ("cost", "device", "runtime", "batch", "dtype", "network frame", "source", "date")
    return table(head, rows) if rows else ""


def _failed(result, found):
    if not found.reasons:
        return ""
    rows = []
    for reason, times in sorted(found.reasons.items(), key=lambda item: -item[1])[:30]:
        ids = [str(t.id) for t in result.trials if t.status == "failed" and (t.reason or NO_REASON) == reason]
        rows.append([str(times), escape(reason), ", ".join(ids[:12]) + (", …" if len(ids) > 12 else "")])
    return table(("how many", "reason", "trials"), rows)


def _next(result, config):
    lines = []
    folder = str(result.out) if result.out else None
    if result.best:
        best = shlex.quote(f"{folder}/best.json" if folder else "best.json")
        lines.append((f"nas train {best}", "trains the found network in full"))
    if folder:
        go_on = f"nas search … --out {shlex.quote(folder)} --resume"
        lines.append((go_on, "goes on with this search, given the same options and a larger budget"))
    lines.append(("nas search … --baseline random", "runs random search with the same budget beside it"))
    return "<ul>" + "".join(f"<li><code>{escape(a)}</code> {escape(b)}</li>" for a, b in lines) + "</ul>"
