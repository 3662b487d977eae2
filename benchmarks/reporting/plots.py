"""Figures of a run, as SVG text. Needs matplotlib (the extra [bench])."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.harness.results import Row, Run, is_ours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = {
    "svg.fonttype": "none",  # text stays text: the page's font, and it can be searched
    "svg.hashsalt": "lazarus",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.marker": "o",
    "lines.markersize": 4,
}
_OURS = ("#b3261e", "#e07a5f", "#f2b5a7", "#7d1a15")
_PEERS = ("#264653", "#4f7a8c", "#8aa9b3", "#b8c9cf", "#6c757d")


class Figure(NamedTuple):
    """`svg` scales with the page; `caption` says what is seen."""

    caption: str
    svg: str


def figures(run: Run) -> Iterator[Figure]:
    """Those for which the run has rows."""
    import matplotlib

    matplotlib.use("svg")
    with matplotlib.rc_context(_STYLE):
        for draw in (_lookup, _copyup, _amplification, _walls):
            found = draw(list(run.rows.values()))
            if found is not None:
                yield found


def number_in(case: str) -> float:
    """The last whole number of a case: "1 x 4 KiB into 64 MiB" is 64. `ValueError` when there is none."""
    numbers = re.findall(r"\d+", case)
    if not numbers:
        raise ValueError(f"{case}: no number")
    return float(numbers[-1])


def _lookup(rows: list[Row]) -> Figure | None:
    chosen = [row for row in rows if row.question == "lookup__depth" and row.metric.startswith("first ")]
    return _lines(
        chosen,
        lambda row: row.metric,
        1e6,
        ("layers", "us"),
        "The first lookup of a name after opening a stack or mounting an overlay, against the number of layers"
        " (hit: in the lowest layer; miss: nowhere). Both axes are logarithmic; lower is better.",
    )


def _copyup(rows: list[Row]) -> Figure | None:
    chosen = [
        row
        for row in rows
        if row.question == "copyup__first_write" and row.metric == "first write" and row.case.startswith("1 x ")
    ]
    return _lines(
        chosen,
        lambda row: row.file_system,
        1e3,
        ("MiB of the file", "ms"),
        "Until the first write of 4 KiB to a file of a lower layer returns, against the file's size."
        " Both axes are logarithmic; lower is better.",
    )


def _lines(
    rows: list[Row], panel: Callable[[Row], str], scale: float, labels: tuple[str, str], caption: str
) -> Figure | None:
    """A panel for each answer of `panel`, in it a line for each contender."""
    if not rows:
        return None
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys(panel(row) for row in rows))
    _, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), sharey=True, squeeze=False)
    colors = _colors(rows)
    for name, axis in zip(panels, axes[0], strict=True):
        lines: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if panel(row) == name:
                lines[row.contender].append(row)
        for contender, found in lines.items():
            found.sort(key=lambda row: number_in(row.case))
            axis.errorbar(
                [number_in(row.case) for row in found],
                [row.median * scale for row in found],
                [row.spread * scale for row in found],
                label=contender,
                color=colors[contender],
                linewidth=2 if is_ours(contender) else 1.2,
            )
        axis.set(xscale="log", yscale="log", title=name, xlabel=labels[0])
        places = sorted({number_in(row.case) for row in rows})
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.minorticks_off()
    axes[0][0].set_ylabel(labels[1])
    return Figure(caption, _svg(axes[0]))


def _amplification(rows: list[Row]) -> Figure | None:
    chosen = [row for row in rows if row.metric == "write amplification" and row.case.endswith("into 1024 MiB")]
    if not chosen:
        return None
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(row.case for row in chosen))
    systems = list(dict.fromkeys(row.file_system for row in chosen))
    colors = _colors(chosen)
    _, axes = plt.subplots(1, len(cases), figsize=(5.5 * len(cases), 3.4), squeeze=False)
    for case, axis in zip(cases, axes[0], strict=True):
        width = 0.8 / len(colors)
        for number, contender in enumerate(colors):
            found = {row.file_system: row for row in chosen if (row.case, row.contender) == (case, contender)}
            places = [i for i, system in enumerate(systems) if system in found]
            if not places:
                continue
            axis.bar(
                [place + (number - (len(colors) - 1) / 2) * width for place in places],
                [found[systems[place]].median for place in places],
                width,
                label=contender,
                color=colors[contender],
            )
        axis.set(yscale="log", title=case)
        axis.set_xticks(range(len(systems)), systems)
    axes[0][0].set_ylabel("bytes written to the disk a byte asked")
    caption = "Write amplification, from the block device's own counters after a sync. Logarithmic; lower is better."
    return Figure(caption, _svg(axes[0]))


def _walls(rows: list[Row]) -> Figure | None:
    chosen = [row for row in rows if row.metric == "wall" and row.unit == "s"]
    if not chosen:
        return None
    import matplotlib.pyplot as plt

    questions = list(dict.fromkeys(row.question for row in chosen))
    counts = [sum(row.question == question for row in chosen) for question in questions]
    height = 0.9 * len(questions) + 0.32 * len(chosen)
    figure, axes = plt.subplots(len(questions), 1, figsize=(8, height), height_ratios=counts, squeeze=False)
    for question, axis in zip(questions, (line[0] for line in axes), strict=True):
        found = sorted((row for row in chosen if row.question == question), key=lambda row: -row.median)
        axis.barh(
            [row.contender for row in found],
            [row.median for row in found],
            xerr=[row.spread for row in found],
            color=[_OURS[0] if is_ours(row.contender) else _PEERS[0] for row in found],
        )
        axis.set(title=question, xlabel="s")
    figure.tight_layout()
    return Figure("Wall clock of whole commands, medians with half the distance between the quartiles.", _svg(()))


def _colors(rows: list[Row]) -> dict[str, str]:
    names = sorted({row.contender for row in rows}, key=lambda name: (not is_ours(name), name))
    ours, peers = iter(_OURS * 9), iter(_PEERS * 9)
    return {name: next(ours if is_ours(name) else peers) for name in names}


def _svg(legend_of: Sequence[Axes]) -> str:
    """The current figure, which is closed, with a legend below it of all that is in some axes."""
    import matplotlib.pyplot as plt

    figure = plt.gcf()
    named = {name: mark for axis in legend_of for mark, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if named:
        figure.tight_layout(rect=(0, 0.1, 1, 1))
        labels = sorted(named, key=lambda name: (not is_ours(name), name))
        figure.legend(
            [named[name] for name in labels],
            labels,
            loc="lower center",
            ncols=min(len(labels), 5),
            frameon=False,
            fontsize=9,
        )
    out = io.StringIO()
    plt.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = out.getvalue()
    tag, _, rest = text[text.index("<svg") :].partition(">")
    return re.sub(r' (width|height)="[^"]*"', "", tag) + ">" + rest
