"""The page of `experiments.once_for_all`: each device's accuracy against latency, the supernet and networks alone.

It is made of what the study has written; ``python -m experiments.once_for_all_report FOLDER`` makes it again.
"""

import base64
import sys
from pathlib import Path
from typing import Any

from nas.files import read_json, write_atomic
from nas.page import escape, section, style, table
from search_spaces import ofa_mbv3_small
from search_spaces.once_for_all import to_encoding


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` into the folder of a study; what the study has not reached yet is left out."""
    found = read_json(folder / "specialised.json", "specialised networks")
    held, picture = found["predictor"], base64.b64encode((folder / "devices.png").read_bytes()).decode()
    error = f"Spearman {held['spearman']:.3f}, mean error {held['error_points']:.2f} points"
    text = (
        f"<p>The accuracy is that in the shared weights, batch norm recalibrated. The predictor has seen "
        f"{held['networks']} sub-networks; on those held out: {error}.</p>"
    )
    image = f'<img alt="accuracy against latency, a panel for each device" src="data:image/png;base64,{picture}">'
    path = folder / "compared.json"
    compared = _compared(read_json(path, "comparison")) if path.exists() else ""
    body = section("Accuracy and latency on each device", image + text) + compared
    body += section("Found networks", _networks(found["networks"]))
    head = f"<title>Once for all</title><style>{style()}img{{width:100%;background:#fff}}</style>"
    page = f'<!doctype html><html lang="en"><meta charset="utf-8">{head}<main><h1>Once for all</h1>{body}</main></html>'
    write_atomic(folder / "report.html", page.encode())
    return folder / "report.html"


def _compared(found: dict[str, Any]) -> str:
    accuracy, rows = found["accuracy"], []
    for i, macs in enumerate(found["macs"]):
        values = accuracy["a"][i], found["a_uncalibrated"][i], *(accuracy[n][i] for n in ("b", "b'", "c"))
        rows.append([f"{macs / 1e6:.2f}", *(f"{v:.2f}" for v in values)])
    head = (
        "macs (M)",
        "a: from the supernet",
        "a, not recalibrated",
        "b: alone",
        "b': alone, shorter",
        "c: single stage",
    )
    summary = escape(found["text"].splitlines()[-1])
    legend = "Accuracy in per cent; a is not trained any further, b saw as many images as the whole supernet."
    return section("The supernet beside networks trained alone", table(head, rows) + f"<p>{summary}. {legend}</p>")


def _networks(found: list[dict[str, Any]]) -> str:
    space, rows = ofa_mbv3_small(kernels=(3, 5)), []
    for e in found:
        net = to_encoding(e["row"], space)
        choice = "; ".join(f"{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in net.items())
        unit, accuracy = e["unit"], (f"{100 * e[n]:.2f}" for n in ("predicted", "measured"))
        figures = (f"{e[n]:.3g} {unit}" for n in ("limit", "cost"))
        rows.append([escape(e["device"]), *figures, *accuracy, f"<code>{escape(choice)}</code>"])
    return table(("device", "limit", "by its table", "predicted (%)", "measured (%)", "network"), rows)


if __name__ == "__main__":
    print(write_report(Path(sys.argv[1])))
