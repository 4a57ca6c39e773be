"""Pieces of a self-contained HTML page: escaping, sections, tables, the style sheet."""

import html
import json
from typing import Any

from nas.files import to_json
from nas.plots import COLOURS


def escape(text: Any) -> str:
    """Text that came from people, safe inside HTML and attributes."""
    return html.escape(str(text), quote=True)


def section(title, body):
    """A headed section, or nothing where there is no body."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def table(head, rows):
    """A table; the cells are HTML already, the head is not."""
    top = f"<thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table>{top}<tbody>{body}</tbody></table></div>"


def json_tree(title, value):
    """A collapsible JSON listing."""
    if not value:
        return ""
    shown = json.dumps(json.loads(to_json(value)), indent=2, ensure_ascii=False)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(shown)}</pre></details>"


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


def style():
    """The style sheet, with the colours of the pictures for light and dark."""
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
