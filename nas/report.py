"""report.html: one self-contained page about a search, honest about what each figure is and is not."""

import dataclasses
import html
import io
import itertools
import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nas.cost import Cost
from nas.draw import COLOURS, draw_network, pareto_plot, search_curve
from nas.errors import BadInput
from nas.files import to_json, write_atomic
from nas.search import Result, Trial, cost_column
from nas.space import Macro
from nas.summary import (
    NO_REASON,
    Baselines,
    baseline_rows,
    baselines,
    column_of,
    cost_columns,
    cost_name,
    cost_text,
    counts_text,
    duration,
    finished,
    hours_text,
    number,
    value_text,
    why_nothing,
)

TOP = 10


def write_report(
    result: Result,
    folder: str | os.PathLike,
    *,
    config: dict | None,
    search: dict | None,
    costs: Mapping[str, Cost],
    trained: dict | None = None,
) -> Path:
    """Writes ``report.html`` into the folder (atomically) and gives its path.

    Args:
        result: of the search, finished or not; one without any finished trial gets a report too.
        folder: exists already.
        config: the found architecture as ``best.json`` holds it, or None.
        search: the search as ``search.json`` holds it, or None.
        costs: name -> cost, for the stamps; what is in the result without a stamp here is said to have none.
        trained: metrics of the found network after its own training, where there was one.
    """
    path = Path(folder) / "report.html"
    write_atomic(path, render(result, config=config, search=search, costs=costs, trained=trained))
    return path


def render(
    result: Result, *, config: dict | None, search: dict | None, costs: Mapping[str, Cost], trained: dict | None = None
) -> str:
    """The page as text; see `write_report`."""
    found = baselines(result)
    search = search or {}
    stamps = {cost_column(name, cost): cost for name, cost in costs.items()}
    title = f"Search of {result.space.name}"
    parts = [
        f"<h1>{_e(title)}</h1><p class=lead>{_sentence(result)}</p>{_notes(result)}",
        _tiles(result, found, stamps),
        _section("The search", _curve(result)),
        _section("Accuracy against cost", _pareto(result)),
        _section("The found network", _network(result, config)),
        _section("Held against", _baselines(found)),
        _section("Best trials", _top(result)),
        _section("What was measured", _measured(result, search, stamps, trained)),
        _section("What the costs are about", _stamps(result, stamps)),
        _section("Failed trials", _failed(result, found)),
        _section("How to go on", _next(result, config)),
        _section("Files", _json("Architecture config (best.json)", config) + _json("Search (search.json)", search)),
    ]
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{_e(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{_style()}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main></body></html>\n"
    )


# ---- top of the page -----------------------------------------------------------------------------------------------
def _sentence(result):
    told = sum(t.status != "pending" for t in result.trials)
    after = f"after {told} trial{'s' * (told != 1)} in {duration(result.seconds)}"
    if result.best is None:
        return f"Found nothing: {_e(why_nothing(result))} ({after})."
    metric, best = result.objective.metric, result.best
    named = [f"{_e(metric)} <b>{number(best.metrics.get(metric, math.nan))}</b>"]
    named += [f"{_e(cost_name(c))} <b>{_e(cost_text(c, best.metrics[c]))}</b>" for c in _shown_costs(result)]
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
    cards = (f"<div><dt>{_e(a)}</dt><dd>{_e(b)}</dd><small>{_e(c)}</small></div>" for a, b, c in tiles)
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
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{_e(label)}">', svg, count=1)
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


def _pareto(result):
    if not finished(result):
        return ""
    text = "The front joins the trials that no other beats in both accuracy and cost; hollow ones break a limit."
    return _svg(pareto_plot(result), "Accuracy against cost") + f"<p>{text}</p>"


def _network(result, config):
    if result.best is None:
        return ""
    choices = "".join(
        f"<tr><th>{_e(name)}</th><td>{_e(value_text(value))}</td></tr>"
        for name, value in result.space.decode(result.best.row).items()
    )
    table = f"<details open><summary>Choices</summary><table class=narrow>{choices}</table></details>"
    try:
        macro = Macro(**config["macro"]) if config and config.get("macro") else None
        picture = _svg(draw_network(result.space.layers(result.best.row, macro)), "The found network")
    except (BadInput, TypeError) as error:
        return f"<p>No drawing: {_e(str(error))}</p>{table}"
    return f"{picture}<p>Shapes are height×width×channels of one image. A box is a block measured as one.</p>{table}"


# ---- tables --------------------------------------------------------------------------------------------------------
def _baselines(found: Baselines) -> str:
    rows = [("this search", number(found.found), f"best {found.score} within the limits"), *baseline_rows(found)]
    text = (
        "<p>Random search is an <b>estimate from this search's own random samples</b>, no separate run; "
        * bool(found.random)
        or "<p>"
    )
    text += (
        "<code>nas search … --baseline random</code> runs the full random search with the same budget. Parameters and "
        "FLOPs are baselines too: where they rank candidates as well as training does, training told little.</p>"
    )
    return _table(("", "result", "how it was come by"), [[_e(x) for x in row] for row in rows]) + text


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
        choices = f"<small><em>{marks}</em>{_e(_choices(result, trial))}</small>"
        rows.append([*(f"<span class=figure>{_e(c)}</span>" for c in cells), choices])
    return _table(head, rows) + f"<p>The best {len(rows)} of {len(finished(result))} finished trials.</p>"


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
    return _table((), [[f"<b>{_e(a)}</b>", _e(b)] for a, b in rows])


def _objective(result, stamps):
    o = result.objective
    known = [*cost_columns(result), *stamps]
    with_unit = lambda name, value: cost_text(column, value) if (column := column_of(name, known)) else f"{value:g}"  # noqa: E731
    text = {"accuracy": o.metric, "pareto": " against ".join([o.metric, *o.costs])}.get(o.kind, "")
    if o.kind == "mnasnet":
        target = with_unit(o.costs[0], o.target)
        text = f"{o.metric} × ({o.costs[0]} / {target}) ^ ({o.alpha:g} below, {o.beta:g} above the target)"
    return text + "".join(f"; {x.cost} at most {with_unit(x.cost, x.value)}" for x in o.limits)


def _stamps(result, stamps):
    rows = []
    for column in dict.fromkeys([*cost_columns(result), *stamps]):
        cost = stamps.get(column)
        if cost is None:
            rows.append([_e(cost_name(column)), "<em>no stamp was handed to the report</em>", *[""] * 6])
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
        rows.append([_e(x) for x in cells])
    head = ("cost", "device", "runtime", "batch", "dtype", "network frame", "source", "date")
    return _table(head, rows) if rows else ""


def _failed(result, found):
    if not found.reasons:
        return ""
    rows = []
    for reason, times in sorted(found.reasons.items(), key=lambda item: -item[1])[:30]:
        ids = [str(t.id) for t in result.trials if t.status == "failed" and (t.reason or NO_REASON) == reason]
        rows.append([str(times), _e(reason), ", ".join(ids[:12]) + (", …" if len(ids) > 12 else "")])
    return _table(("how many", "reason", "trials"), rows)


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
    return "<ul>" + "".join(f"<li><code>{_e(a)}</code> {_e(b)}</li>" for a, b in lines) + "</ul>"


# ---- pieces --------------------------------------------------------------------------------------------------------
def _e(text: Any) -> str:
    return html.escape(str(text), quote=True)


def _section(title, body):
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _table(head, rows):
    top = f"<thead><tr>{''.join(f'<th>{_e(h)}</th>' for h in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table>{top}<tbody>{body}</tbody></table></div>"


def _json(title, value):
    if not value:
        return ""
    shown = json.dumps(json.loads(to_json(value)), indent=2, ensure_ascii=False)
    return f"<details><summary>{_e(title)}</summary><pre>{_e(shown)}</pre></details>"


_DARK = {
    "ink": "#e8eaed",
    "muted": "#9aa4af",
    "grid": "#30363d",
    "surface": "#181c21",
    "accent": "#6cb0ff",
    "random": "#e3a04a",
    "band": "#43351f",
    "failed": "#ff7b72",
    "point": "#8aa2bd",
    "conv": "#1d3c66",
    "pointwise": "#1f4557",
    "depthwise": "#1c4a47",
    "pool": "#244a24",
    "head": "#3d2f63",
    "join": "#2b323a",
    "zeros": "#57292b",
    "other": "#4d3d1c",
    "port": "#22272e",
}


def _style():
    variables = lambda colours: "".join(f"--{name}:{value};" for name, value in colours.items())  # noqa: E731
    light, dark = variables(COLOURS) + "--page:#f4f6f8;", variables(_DARK) + "--page:#0f1317;"
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{_CSS}"


_CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 8px}h2{font-size:19px;margin:0 0 12px}
.lead{font-size:19px;margin:0 0 20px}.note{border-left:4px solid var(--random);padding-left:12px;margin:0 0 20px}
section{background:var(--surface);border:1px solid var(--grid);border-radius:12px;padding:20px 24px;margin:0 0 20px}
section p{color:var(--muted);font-size:14px;margin:10px 0 0;max-width:110ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:0 0 20px}
.tiles div{background:var(--surface);border:1px solid var(--grid);border-radius:12px;padding:12px 16px}
.tiles dt{color:var(--muted);font-size:13px}.tiles dd{font-size:24px;font-weight:650;margin:0;line-height:1.3}
small{color:var(--muted);font-size:12px}.tiles small{display:block;line-height:1.35}
figure{margin:0 auto 6px}svg{display:block;width:100%;height:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;width:100%;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--muted);font-weight:600;white-space:nowrap}
.figure{white-space:nowrap}.narrow{width:auto;margin-top:8px}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--grid);vertical-align:top}tr:last-child>*{border-bottom:0}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace}
code{background:var(--page);border:1px solid var(--grid);border-radius:6px;padding:1px 6px}
pre{background:var(--page);border-radius:8px;padding:14px;overflow-x:auto;max-height:480px}
summary{cursor:pointer;font-weight:600}details+details{margin-top:10px}ul{margin:0;padding-left:20px}li{margin:6px 0}
@media print{section,.tiles div{break-inside:avoid}}
"""
