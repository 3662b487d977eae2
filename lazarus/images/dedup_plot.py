"""A dedup report as a figure: what is left to keep, against the size of chunks and blocks. Needs matplotlib (the extra
[bench])."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lazarus.errors import FormatError, UnsupportedError
from lazarus.whole_file import whole_file

if TYPE_CHECKING:
    from lazarus.images.dedup import DedupReport, Sharing

FORMATS = (".png", ".svg")
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "svg.fonttype": "none",
    "svg.hashsalt": "lazarus",
}
_LEVELS = ("#777777", "#8c5a17", "#35607a")  # alone, layers, files
_CHUNKS, _BLOCKS = "#b3261e", "#2a9d8f"


def check_can_plot(path: str) -> None:
    """Before the work: `FormatError` for a name of another kind, `UnsupportedError` when matplotlib is missing."""
    if os.path.splitext(path)[1].lower() not in FORMATS:
        raise FormatError(f"{path}: a figure is a {' or '.join(FORMATS)} file")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UnsupportedError("a plot needs matplotlib, which is not installed: pip install 'lazarus-layers[bench]'")


def plot(report: DedupReport, path: str) -> None:
    """Writes the figure to `path` (.png or .svg), which is replaced when it is whole. What `check_can_plot` raises, or
    OSError. The same report gives the same SVG."""
    check_can_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        _draw(figure, report)
        form = os.path.splitext(path)[1][1:].lower()
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, dpi=120, facecolor="white", metadata={"Date": None} if form == "svg" else {})
    with whole_file(path) as fd, open(fd, "wb", closefd=False) as file:
        file.write(drawn.getvalue())


def _draw(figure: Any, report: DedupReport) -> None:
    unit, name = _unit(report.alone)
    axes = figure.add_subplot()
    levels = [("each image alone", report.alone), ("layers shared", _needed(report.layers))]
    levels += [("files shared", _needed(report.files))]
    ends: list[tuple[float, str, str]] = []
    for (text, count), color in zip(levels, _LEVELS, strict=True):
        axes.axhline(count / unit, color=color, linewidth=1.2, linestyle=(0, (5, 3)))
        ends.append((count / unit, _label(text, count, report.alone, name, unit), color))
    for rows, color, marker in ((report.chunks, _CHUNKS, "o"), (report.blocks, _BLOCKS, "s")):
        if rows:
            heights = [_needed(row) / unit for row in rows]
            axes.plot(
                [row.size for row in rows], heights, color=color, marker=marker, markersize=7, linewidth=2, mfc="none"
            )
            best = min(rows, key=_needed)
            text = f"{best.by}s of {_size(best.size)}"
            ends.append((heights[-1], _label(text, _needed(best), report.alone, name, unit), color))
    sizes = sorted({row.size for row in (*report.chunks, *report.blocks)})
    axes.set_xscale("log", base=2)
    axes.set_xlim(sizes[0] / 1.5 if sizes else 1, sizes[-1] * 1.5 if sizes else 2)
    axes.set_xticks(sizes, [_size(size) for size in sizes])
    axes.minorticks_off()
    top = max(1.06 * report.alone, *(unit * height for height, _, _ in ends)) or 1
    axes.set_ylim(0, top / unit)
    _write_at_the_end(axes, ends, top / unit)
    axes.tick_params(length=0, pad=6)
    axes.set_xlabel("size of a chunk (on average) or block")
    axes.set_ylabel(f"content to keep, with its index ({name})")
    images = f"{len(report.images)} image{'' if len(report.images) == 1 else 's'}"
    keyed = ", chunks cut with a key" if report.keyed else ""
    axes.set_title(
        f"What {images} would take, by what is shared{keyed}", loc="left", fontsize=13, fontweight="bold", pad=14
    )


def _write_at_the_end(axes: Any, ends: Sequence[tuple[float, str, str]], top: float) -> None:
    """Each line's text (of a curve: its lowest point) to its right, moved down where two would overlap."""
    gap, last = 0.062 * top, float("inf")
    placed = []
    for height, text, color in sorted(ends, key=lambda end: -end[0]):
        last = min(height, last - gap)
        placed.append((height, last, text, color))
    for height, at, text, color in placed:
        axes.annotate(
            text,
            (1, height),
            (1.02, at),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            color=color,
            fontsize=10,
            va="center",
            annotation_clip=False,
        )


def _needed(row: Sharing) -> int:
    return row.bytes + row.index_bytes


def _label(text: str, count: int, alone: int, name: str, unit: int) -> str:
    less = f", {(count - alone) / alone:+.1%}".replace("-", "\N{MINUS SIGN}") if alone and count != alone else ""
    return f"{text}: {count / unit:.3g} {name}{less}"


def _unit(count: int) -> tuple[int, str]:
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return unit, name
    return 1, "B"


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
