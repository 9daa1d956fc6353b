"""How every figure looks: one palette, one style, and each figure as PNG and as SVG.

In the SVG the ink is ``currentColor``, so a page that shows it gives it its own text colour, light or dark.
"""

import re
import textwrap
from collections.abc import Callable, Iterable
from functools import wraps
from hashlib import blake2b
from io import StringIO
from itertools import cycle
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pgd_lightning.runs.names import NAMES

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
INK = "#010203"  # stands for the page's text colour in an SVG; black in a PNG
GUIDED, UNGUIDED = "#d55e00", "#0072b2"
# Okabe and Ito's palette, which colour-blind readers can tell apart; then two more that fit it.
LIGHT = "#56b4e9"
OTHERS = ("#009e73", "#cc79a7", "#e69f00", LIGHT, "#8a6d3b", "#7d6bd6")
ON_PAGE = f"var(--blue, {UNGUIDED})"  # a dark page has a lighter blue
COLOURS = {"real": INK, "none": INK, "recorded": INK, "unguided": UNGUIDED, "pgd": GUIDED, "guided": GUIDED}
MARKERS = {"real": "s", "none": "s", "recorded": "^", "unguided": "o", "pgd": "D", "guided": "D"}
MORE_MARKERS = "^vP*X<>"
STYLE: Any = {
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 10,
}
PANEL = (4.6, 3.2)  # inches: one panel, which can be read on a telephone
LONG = 24  # characters of a label beside which there is no second column in a panel
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
ON_WHITE = ' style="background:white;color:black"'


def styled(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that draws in the style of all figures."""

    @wraps(draw)
    def in_style(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return in_style


def colours(names: Iterable[str]) -> dict[str, str]:
    """The colour of each name: what has one in every figure keeps it, the others follow in their order."""
    labelled = {NAMES[key]: colour for key, colour in COLOURS.items() if key in NAMES}
    others = cycle(OTHERS)
    return {name: COLOURS.get(name) or labelled.get(name) or next(others) for name in names}


def markers(names: Iterable[str]) -> dict[str, str]:
    """As :func:`colours`: the marker of each name, so that colour is never the only difference."""
    labelled = {NAMES[key]: marker for key, marker in MARKERS.items() if key in NAMES}
    others = cycle(MORE_MARKERS)
    return {name: MARKERS.get(name) or labelled.get(name) or next(others) for name in names}


def legend_below(figure: Any, axes: Iterable[Any], columns: int = 2) -> None:
    """One legend for all ``axes`` of ``figure``, each label once, below them; a figure grows by as much."""
    found: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if not found:
        return
    whole = figure.get_figure(root=True)
    narrow = whole.get_figwidth() < 2 * PANEL[0] and max(map(len, found)) > LONG
    columns = 1 if narrow else min(columns, len(found))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)
    if figure is whole:
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(found) // columns) + 0.1)


def save(figure: Any, title: str, path: Path) -> Path:
    """Put the title on, write ``path`` (PNG) and the same as SVG beside it, close; returns ``path``."""
    if title:
        figure.suptitle("\n".join(textwrap.wrap(title, int(13 * figure.get_figwidth()))), fontsize=10)
    part = path.with_name(f".{path.name}")
    figure.savefig(part, dpi=150, bbox_inches="tight", format="png", facecolor="white")
    part.replace(path)
    figure.set_layout_engine("none")  # it is laid out: arranging it again for the SVG takes as long as drawing it
    part.write_text(_drawn(figure, path.name).replace("<svg ", f"{HEAD}{ON_WHITE} ", 1))
    part.replace(path.with_suffix(".svg"))
    plt.close(figure)
    return path


@styled
def panel(draw: Callable[[Any], None], **labels: Any) -> str:
    """What ``draw(axis)`` draws, for a page: see :func:`inline`."""
    figure, axis = plt.subplots(figsize=PANEL, layout="constrained")
    draw(axis)
    axis.set(**labels)
    legend_below(figure, [axis])
    return inline(figure)


def inline(figure: Any) -> str:
    """The figure as an ``<svg>`` element without a size of its own, for a page; closes it."""
    drawn = _drawn(figure, repr([axis.get_xlabel() + axis.get_ylabel() for axis in figure.axes] + figure.texts))
    plt.close(figure)
    return drawn.replace(UNGUIDED, ON_PAGE)


def saved(path: Path) -> str:
    """The SVG beside a PNG that :func:`save` wrote, for a page."""
    drawing = path.with_suffix(".svg").read_text().replace(f"{HEAD}{ON_WHITE} ", "<svg ", 1)
    return drawing.replace(UNGUIDED, ON_PAGE)


def standalone(drawing: str) -> str:
    """An :func:`inline` SVG as a file of its own, black on white."""
    return drawing.replace(ON_PAGE, UNGUIDED).replace("<svg ", f"{HEAD}{ON_WHITE} ", 1)


def _drawn(figure: Any, salt: str) -> str:
    """``<svg viewBox=…>``: no size, no date, no name that another figure of the page could have too."""
    text = StringIO()
    with plt.rc_context({"svg.hashsalt": blake2b(salt.encode(), digest_size=6).hexdigest()}):
        figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    whole = text.getvalue()
    head, body = whole[whole.index("<svg") :].split(">", 1)
    box = head[head.index('viewBox="') :].split('"')[1]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([\w-]+)"', lambda found: found[0] if found[1] in used else "", body)
    return f'<svg viewBox="{box}" role="img">' + body.replace(INK, "currentColor")
