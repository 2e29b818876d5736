"""How figures look, and how they become the same bytes from the same records."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from kdbench.report.escape import plain

INK, SOFT, DIM, PALE = "#1f2933", "#5f6b78", "#b4bdc7", "#d9dee4"
#: Okabe and Ito's colours, told apart in every common colour blindness; markers tell them apart in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
GOOD, ACCENT = COLOURS[0], COLOURS[1]

#: Of pictures. Layouts and the widths of texts are of it, too: letters are not as wide in every resolution.
DPI = 160

RC: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.hashsalt": "kdbench",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name with two dollars is a name
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.autolayout": False,  # of a user's matplotlibrc: the layout is ours, and none while it is drawn
    "figure.constrained_layout.use": False,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Our looks; names that the font lacks or that leave no room make an ugly figure, not a warning."""
    with rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from|constrained_layout not applied")
        yield


def canvas(width: float, height: float, title: str, subtitle: str, footer: str) -> Figure:
    """A figure with its heading and its small print; sizes in inches."""
    title, subtitle, footer = plain(title, 160), plain(subtitle, 900), plain(footer, 500)
    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=engine)
    lines = _wrap(subtitle, width, 8.3)
    # The heading is one text to the layout: blank lines keep the room for the subtitle's own style.
    room = "\n" * math.ceil((lines.count("\n") + 1) * 8.3 / 10.5)
    figure.suptitle(title + room, x=0.012, ha="left", fontsize=10.5, weight="bold", linespacing=1.4, color=INK)
    figure.text(0.012, 1 - 0.29 / height, lines, va="top", ha="left", fontsize=8.3, color=SOFT, linespacing=1.35)
    # A label of the whole figure has its own room in the layout; free text would be drawn over.
    figure.supxlabel(_wrap(footer, width, 6.8), x=0.012, ha="left", fontsize=6.8, color=SOFT)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """``png`` or ``svg``, without dates and versions in it."""
    buffer = io.BytesIO()
    with drawing():
        FigureCanvasAgg(figure)
        if (engine := figure.get_layout_engine()) is not None:
            # Once for all kinds, and no place holder left: either would have every kind drawn once more, unseen.
            if figure.axes:
                engine.execute(figure)
            figure.set_layout_engine(None)
        if kind == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "kdbench"})
        else:
            figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def readable_on(colour: tuple[float, float, float]) -> str:
    """White or ink, whichever stands out more (relative luminance as in WCAG 2)."""
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.2 else INK


def _wrap(text: str, width: float, size: float) -> str:
    return "\n".join(textwrap.wrap(text, int(width * 72 / (0.56 * size)))) or " "
