"""What of the docs is made from the code: the config's JSON Schema, and the picture of the README from a run folder.

``python -m experiments.make_docs`` writes the schema; ``--run runs/a`` makes the picture from that search as well.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.run_search import reopened
from nas import Result, config
from nas.draw import draw_network
from nas.files import to_json
from nas.plots import pareto_plot, search_curve
from nas.summary import finished

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCHEMA = DOCS / "architecture.schema.json"
PICTURE = DOCS / "images" / "search.png"
WIDTH, GAP = 1800, 40  # pixels, twice what a page shows
COLOURS = 255  # enough for flat colours with smooth edges; keeps the file small


def schema() -> str:
    """The text of `architecture.schema.json`."""
    return to_json(config.json_schema()) + "\n"


def picture(result: Result) -> Image.Image:
    """Search curve and accuracy against cost side by side, the found network below, on white."""
    scores = np.sort([t.scores[0] for t in finished(result)])
    figures = search_curve(result), pareto_plot(result)
    for figure, width in zip(figures, (7.4, 5.4), strict=True):
        figure.set_size_inches(width, 4.1)
        zoomed(figure.axes[0], scores)
    top = beside([drawn(figure) for figure in figures])
    network = drawn(draw_network(result.space.layers(result.best.row)))
    parts = [fitted(top, WIDTH - 2 * GAP), fitted(network, WIDTH - 2 * GAP)]
    page = Image.new("RGB", (WIDTH, sum(p.height for p in parts) + 3 * GAP), "white")
    at = GAP
    for part in parts:
        page.paste(part, ((WIDTH - part.width) // 2, at))
        at += part.height + GAP
    return page


def zoomed(axes, scores: np.ndarray) -> None:
    """Cuts off the lowest hundredth of the scores, where one failure would flatten all others, and says so."""
    lowest = scores[len(scores) // 100]
    room = 0.05 * (scores[-1] - lowest)
    axes.set_ylim(lowest - room, scores[-1] + 2 * room)
    if below := int((scores < lowest).sum()):
        axes.text(0.99, 0.02, f"{below} of {len(scores)} below", transform=axes.transAxes, ha="right", fontsize=9)


def drawn(figure) -> Image.Image:
    """A figure as an image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200, facecolor="white")
    return Image.open(file).convert("RGB")


def beside(images: list[Image.Image]) -> Image.Image:
    """Images in a row."""
    row = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)), "white")
    for n, image in enumerate(images):
        row.paste(image, (sum(i.width for i in images[:n]), 0))
    return row


def fitted(image: Image.Image, width: int) -> Image.Image:
    """Scaled down to a width; what is narrower stays."""
    scale = min(1.0, width / image.width)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    """Writes the schema, and the picture where a run is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder of the picture")
    run = parser.parse_args().run
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(schema())
    print(f"written: {SCHEMA.relative_to(DOCS.parent)}")
    if run is not None:
        PICTURE.parent.mkdir(exist_ok=True)
        picture(reopened(run, None)).quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
        print(f"written: {PICTURE.relative_to(DOCS.parent)}, {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
