"""Figures that nobody looks at: everything but the drawing happens, which is two thirds of a small command's time."""

import base64
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from pgd_lightning.report import run_report

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")


def savefig(figure: Figure, file, *, format: str, **_) -> None:
    """In place of a figure's own: a PNG of one pixel, or an SVG that has the figure's words and no more."""
    if format == "png":
        Path(file).write_bytes(PNG)
        return
    said = [escape(text.get_text()) for text in words(figure)]
    drawing = f'<svg viewBox="0 0 1 1"><text>{" ".join(said)}</text></svg>'
    if isinstance(file, str | Path):
        Path(file).write_text(drawing)
    else:
        file.write(drawing)


def words(figure: Figure) -> Iterator[Text]:
    """Titles, labels and legends; not the ticks, which are made when they are asked for."""
    for part in (figure, *figure.subfigs):
        yield from part.texts
        for legend in part.legends:
            yield from legend.get_texts()
    for axis in figure.axes:
        yield from (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts)
        if legend := axis.get_legend():
            yield from legend.get_texts()


def render(task: str, qpos) -> None:
    """In place of ``rendering.render``, which starts a process for each way to draw: as where there is none."""


def leave_undrawn(setattr: Callable[[Any, str, Any], None]) -> None:
    """By ``setattr``, or by a monkeypatch's."""
    setattr(Figure, "savefig", savefig)
    setattr(run_report, "render", render)
