"""Figures of the report, drawn with matplotlib: equal input gives equal bytes.

Colours are Okabe and Ito's (told apart in every common colour blindness); nothing is told by
colour alone. Figures are narrow, so that their words stay readable on a phone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, INK, RULE = "#0072b2", "#d55e00", "#7a7f87", "#1b1f24", "#d9dce1"
SERIES = (BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", GREY)
WIDTH = 4.4  # inches, 317 CSS pixels: on a phone 9 points stay 9 points
PICTURE_WIDTH = 7.6  # inches, of a picture that stands alone


@dataclass(frozen=True)
class Row:
    """One line of an interval plot; `kind` sets the mark."""

    label: str
    mean: float
    low: float
    high: float
    kind: Literal["tuned", "zero-shot", "blend", "baseline"]


@contextmanager
def style() -> Generator[None, None, None]:
    """Draw in the report's style, whatever matplotlibrc the user has."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "font.size": 9,
                "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
                "text.parse_math": False,  # a name may hold dollar signs
                "text.color": INK,
                "axes.labelcolor": INK,
                "axes.edgecolor": GREY,
                "axes.linewidth": 0.7,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.axisbelow": True,
                "axes.grid": True,
                "grid.color": RULE,
                "grid.linewidth": 0.6,
                "xtick.color": GREY,
                "ytick.color": GREY,
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "xtick.major.size": 3,
                "ytick.major.size": 0,
                "legend.frameon": False,
                "legend.handlelength": 1.4,
                "figure.facecolor": "white",
                "svg.fonttype": "none",  # text stays text: small, selectable, read aloud
                "svg.hashsalt": "seedtalk",
                "savefig.bbox": None,
            }
        )
        yield


def _axes(height: float, width: float = WIDTH) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Figure, name: str, about: str) -> str:
    """Return `figure` as an ``<svg>`` element to stand in a page.

    Parameters
    ----------
    figure
        Drawn within `style`.
    name
        Prefix of every id, so that two figures in one page do not share ids.
    about
        What the figure shows, for a reader who cannot see it.
    """
    from html import escape

    buffer = io.StringIO()
    with style():
        figure.savefig(
            buffer,
            format="svg",
            dpi=220,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    used = set(re.findall(r"""(?:url\(#|href="#)([^)"]+)""", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening(escape(about)), text, count=1)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _opening(about: str) -> Any:
    return lambda match: (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{match[1]}" role="img" aria-label="{about}">'
    )


def png(figure: Figure) -> bytes:
    """Return `figure` as a PNG without a note of what wrote it or when."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def intervals(
    rows: Sequence[Row],
    label: str,
    reference: tuple[float, str] | None = None,
    decided: bool = False,
    width: float = WIDTH,
    title: str = "",
) -> Figure:
    """Draw one mark with its interval per row, the first row on top.

    Parameters
    ----------
    rows
        What to draw, best first.
    label
        Of the x axis, with its unit.
    reference
        A value to compare with, drawn as a dashed line, and its name.
    decided
        Fill a mark only where its interval excludes the reference (for differences).
    width
        In inches.
    title
        Above the axes; the page puts it into its caption instead.
    """
    with style():
        figure, axes = _axes(0.75 + 0.3 * len(rows) + (0.3 if title else 0.0), width)
        for place, row in enumerate(rows):
            colour = GREY if row.kind == "baseline" else BLUE
            filled = row.kind != "zero-shot"
            if decided and reference is not None:
                filled = not row.low <= reference[0] <= row.high
            axes.plot(
                [row.low, row.high], [place, place], color=colour, lw=2, solid_capstyle="butt"
            )
            axes.plot(
                row.mean,
                place,
                marker={"tuned": "D", "blend": "s"}.get(row.kind, "o"),
                ms=6.5,
                mfc=colour if filled else "white",
                mec=colour,
                mew=1.5,
            )
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            if row.kind in ("tuned", "blend"):
                tick.set_fontweight("bold")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        if reference is not None:
            axes.axvline(reference[0], color=ORANGE, lw=1.1, ls=(0, (4, 3)), zorder=1.5)
            axes.annotate(
                reference[1],
                (reference[0], 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                color=ORANGE,
                fontsize=8,
            )
        axes.set_xlabel(label)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        return figure


def gain(frame: pd.DataFrame, label: str) -> Figure:
    """Draw each pick's gain against its rank; `frame` has ``rank`` and ``gain``."""
    with style():
        figure, axes = _axes(2.6)
        axes.plot(frame["rank"] + 1, frame["gain"], color=BLUE, lw=1.3)
        axes.set_xlabel("pick (1 is the first)")
        axes.set_ylabel(label)
        axes.set_xlim(1, max(2, int(frame["rank"].max()) + 1))
        axes.set_ylim(bottom=min(0.0, float(frame["gain"].min())))
        return figure


def gain_shares(frame: pd.DataFrame, method: str, stop: int | None) -> Figure:
    """Draw every strategy's gains as shares of its reference gain, the chosen one in front.

    Shares may be over 1: the reference of js and kcenter is their second gain.

    Parameters
    ----------
    frame
        ``method``, ``rank`` and ``share``, null where a strategy has no amounts.
    method
        The chosen strategy.
    stop
        The budget the stopping advice names, or None.
    """
    lines = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
    known = frame.dropna(subset=["share"])
    names = [method, *(name for name in known["method"].unique() if name != method)]
    with style():
        figure, axes = _axes(2.8)
        for place, name in enumerate(names):
            curve = known[known["method"] == name]
            if len(curve):
                axes.plot(
                    curve["rank"] + 1,
                    curve["share"],
                    label=name,
                    color=BLUE if name == method else SERIES[place % len(SERIES)],
                    lw=1.8 if name == method else 1.1,
                    ls=lines[place % len(lines)],
                    zorder=3 if name == method else 2,
                )
        if stop is not None:
            axes.axvline(stop, color=ORANGE, lw=1.1, ls=(0, (4, 3)), zorder=1.5)
        axes.set_xlabel("pick (1 is the first)")
        axes.set_ylabel("gain over the reference gain")
        axes.set_xlim(1, max(2, int(frame["rank"].max()) + 1))
        axes.set_ylim(0, 1.05 * max(1.0, float(known["share"].max())))
        axes.legend(loc="upper right", ncols=2)
        return figure


def overlap(frame: pd.DataFrame) -> Figure:
    """Draw how much of their picks each two strategies share, as a matrix of numbers.

    Parameters
    ----------
    frame
        ``a``, ``b`` and ``jaccard`` (0 to 1), one row a pair.
    """
    import numpy as np

    names = list(dict.fromkeys([*frame["a"], *frame["b"]]))
    values = np.full((len(names), len(names)), np.nan)
    for a, b, jaccard in zip(frame["a"], frame["b"], frame["jaccard"], strict=True):
        row, column = sorted((names.index(a), names.index(b)), reverse=True)
        values[row, column] = jaccard
    with style():
        figure, axes = _axes(3.1)
        axes.imshow(values[1:, :-1], cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        for row in range(1, len(names)):
            for column in range(row):
                value = values[row, column]
                axes.text(
                    column,
                    row - 1,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color="white" if value > 0.6 else INK,
                )
        axes.set_xticks(range(len(names) - 1), names[:-1], rotation=30, ha="right")
        axes.set_yticks(range(len(names) - 1), names[1:])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return figure


def cluster_map(frame: pd.DataFrame) -> Figure:
    """Draw the pool (grey) and the seeds (coloured by pick) on two principal components.

    Parameters
    ----------
    frame
        With ``x``, ``y`` and ``rank`` (null where not selected).
    """
    with style():
        figure, axes = _axes(3.9)
        seeds = frame[frame["rank"].notna()].sort_values("rank", ascending=False)
        axes.scatter(
            frame["x"], frame["y"], s=5, c="#c3c8cf", linewidths=0, label="pool", rasterized=True
        )
        shown = axes.scatter(
            seeds["x"],
            seeds["y"],
            s=15,
            c=seeds["rank"].astype(float) + 1,
            cmap="cividis",
            linewidths=0.4,
            edgecolors="white",
            label="seed",
            rasterized=True,
        )
        bar = figure.colorbar(shown, ax=axes, shrink=0.7, aspect=22, pad=0.02)
        bar.set_label("seed's pick (dark is first)")
        bar.outline.set_visible(False)
        bar.ax.invert_yaxis()
        axes.set_xlabel("first principal component")
        axes.set_ylabel("second principal component")
        axes.set_xticklabels([])
        axes.set_yticklabels([])
        axes.set_aspect("equal", adjustable="datalim")
        return figure


def cluster_shares(pool: Sequence[float], seeds: Sequence[float]) -> Figure:
    """Draw each cluster's share of the pool (bar) and of the seeds (mark), in percent.

    Parameters
    ----------
    pool, seeds
        (K,) shares, from 0 to 1, largest share of the pool first.
    """
    with style():
        figure, axes = _axes(2.4)
        places = range(1, len(pool) + 1)
        axes.bar(places, [100 * v for v in pool], color="#c3c8cf", width=0.8, label="of the pool")
        axes.plot(places, [100 * v for v in seeds], "D", ms=4, color=BLUE, label="of the seeds")
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("cluster, largest first")
        axes.set_ylabel("share (%)")
        axes.set_xlim(0.3, len(pool) + 0.7)
        axes.legend(loc="upper right", ncols=2)
        return figure


def losses(frame: pd.DataFrame) -> Figure:
    """Draw a training run's loss per step and its validation loss.

    Parameters
    ----------
    frame
        With ``step``, ``loss`` and ``eval_loss``, either null where not measured at a step;
        step 0 is the untouched model.
    """
    with style():
        figure, axes = _axes(2.6)
        train = frame.dropna(subset=["loss"])
        valid = frame.dropna(subset=["eval_loss"])
        axes.plot(train["step"], train["loss"], color="#9aa0a8", lw=1.2, label="train")
        if (valid["step"] > 0).any():
            saved = valid[valid["step"] > 0]  # step 0 is the untouched model
            best = saved.iloc[int(saved["eval_loss"].to_numpy().argmin())]
            axes.plot(
                valid["step"],
                valid["eval_loss"],
                color=BLUE,
                lw=1.6,
                marker="o",
                ms=4.5,
                mfc="white",
                mew=1.4,
                label=f"valid, best {best['eval_loss']:.3f}",
            )
            axes.plot(best["step"], best["eval_loss"], "o", ms=5.5, color=BLUE)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss (nats a token)")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right", ncols=2)
        return figure
