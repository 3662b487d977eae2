"""Figures of a run, as SVG text. Needs matplotlib (the extra [bench])."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.harness.results import Row, Run, is_limit, is_ours

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
_PEERS = ("#264653", "#2a9d8f", "#457b9d", "#8ab17d", "#7b6d8d", "#e9c46a", "#90a4ae", "#5c6bc0", "#a1887f", "#b0bec5")
_LIMIT = "#999999"
_COLUMNS = 4  # of a legend
_LARGEST = 1.4  # times the size that it was drawn for


class Figure(NamedTuple):
    """`svg` scales with the page; `caption` says what is seen; `name` is a file's."""

    name: str
    caption: str
    svg: str


def figures(run: Run) -> Iterator[Figure]:
    """Those for which the run has rows."""
    import matplotlib

    matplotlib.use("svg")
    with matplotlib.rc_context(_STYLE):
        for draw in (_lookup, _copyup, _amplification, _depth, _distribution, _density, _walls):
            found = draw(run)
            if found is not None:
                yield found


def number_in(case: str) -> float:
    """The last whole number of a case ("1 x 4 KiB into 64 MiB": 64; "1,000 alive": 1000). `ValueError` for none."""
    numbers = re.findall(r"\d[\d,]*", case)
    if not numbers:
        raise ValueError(f"{case}: no number")
    return float(numbers[-1].replace(",", ""))


def standing_alone(figure: Figure) -> str:
    """As a file of its own, on white: a viewer's page may be dark."""
    return figure.svg.replace(' style="', ' style="background:#fff;', 1) + "\n"


def _chosen(run: Run, question: str, *metrics: str) -> list[Row]:
    return [row for row in run.rows.values() if row.question == question and row.metric in metrics]


def _lookup(run: Run) -> Figure | None:
    return _lines(
        "lookup",
        _chosen(run, "lookup__depth", "first hit", "first miss"),
        lambda row: row.metric,
        {"first hit": ("layers", "us", 1e6), "first miss": ("layers", "us", 1e6)},
        "The first lookup of a name after opening a stack or mounting an overlay, against the number of layers"
        " (hit: in the lowest layer; miss: nowhere). Both axes are logarithmic; lower is better.",
    )


def _copyup(run: Run) -> Figure | None:
    chosen = _chosen(run, "copyup__first_write", "first write")
    return _lines(
        "copyup",
        chosen,
        lambda row: row.file_system,
        {row.file_system: ("MiB of the file", "ms", 1e3) for row in chosen},
        "Until the first write of 4 KiB to a file of a lower layer returns, against the file's size."
        " Both axes are logarithmic; lower is better.",
    )


def _depth(run: Run) -> Figure | None:
    found = _chosen(run, "start__cold_and_warm", "whole")
    chosen = [row for row in found if row.file_system == found[0].file_system]
    panels = {row.case.partition(", ")[2]: ("layers", "ms", 1e3) for row in chosen}
    return _lines(
        "start-depth",
        chosen,
        lambda row: row.case.partition(", ")[2],
        panels,
        "A container's life, from nothing to nothing: prepare, mount, run a process that ends at once, stop; against"
        " the number of layers. Both axes are logarithmic; lower is better.",
    )


def _density(run: Run) -> Figure | None:
    panels = {"next start": ("alive", "ms", 1e3), "processes a container": ("alive", "MiB", 1.0)}
    return _lines(
        "density",
        _chosen(run, "density__thousand_containers", *panels),
        lambda row: row.metric,
        panels,
        "What one more container takes, and the memory of the processes that each has (their parts of the pages that"
        " several share), against the number that are running."
        " Both axes are logarithmic; lower is better.",
        share=False,
    )


def _distribution(run: Run) -> Figure | None:
    found = {key: values for key, values in run.samples.items() if key.question == "start__cold_and_warm"}
    if not found:
        return None
    file_system = next(iter(found)).file_system
    chosen = {key: values for key, values in found.items() if key.file_system == file_system}
    import matplotlib.pyplot as plt

    colors = _colors({key.contender for key in chosen})
    _, axis = plt.subplots(figsize=(8, 3.6))
    for key, values in chosen.items():
        shares = [(number + 1) / len(values) for number in range(len(values))]
        axis.step([value * 1e3 for value in sorted(values)], shares, where="post", marker="",
                  label=key.contender, color=colors[key.contender])  # fmt: skip
    cases = ", ".join(dict.fromkeys(key.case for key in chosen))
    axis.set(xscale="log", xlabel="ms", ylabel="part of the starts")
    caption = f"The part of the starts that took no longer ({cases}, {file_system}): steep is steady, left is fast."
    return Figure("start-distribution", caption, _svg([axis]))


def _lines(
    name: str,
    rows: list[Row],
    panel: Callable[[Row], str],
    panels: Mapping[str, tuple[str, str, float]],
    caption: str,
    *,
    share: bool = True,
) -> Figure | None:
    """A panel for each answer of `panel`, in it a line for each contender; `panels` has what stands at the axes, and
    the factor from the row's unit."""
    found_panels = [title for title in panels if any(panel(row) == title for row in rows)]
    if not found_panels:
        return None
    import matplotlib.pyplot as plt

    width = 4.2 * max(len(found_panels), 2)
    _, axes = plt.subplots(1, len(found_panels), figsize=(width, 3.9), sharey=share, squeeze=False)
    colors = _colors({row.contender for row in rows})
    for title, axis in zip(found_panels, axes[0], strict=True):
        xlabel, ylabel, scale = panels[title]
        lines: defaultdict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if panel(row) == title:
                lines[row.contender].append(row)
        for contender, found in lines.items():
            found.sort(key=lambda row: number_in(row.case))
            axis.errorbar(
                [number_in(row.case) for row in found],
                [row.median * scale for row in found],
                [[(row.median - row.low) * scale for row in found], [(row.high - row.median) * scale for row in found]],
                label=contender,
                color=colors[contender],
                linewidth=2 if is_ours(contender) else 1.2,
                linestyle="--" if is_limit(contender) else "-",
            )
        axis.set(xscale="log", yscale="log", title=title, xlabel=xlabel)
        places = sorted({number_in(row.case) for row in rows if panel(row) == title})
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.minorticks_off()
        if not share or axis is axes[0][0]:
            axis.set_ylabel(ylabel)
    return Figure(name, caption, _svg(axes[0]))


def _amplification(run: Run) -> Figure | None:
    chosen = _chosen(run, "accounting__write_amplification", "write amplification")
    if not chosen:
        return None
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(row.case for row in chosen))
    systems = list(dict.fromkeys(row.file_system for row in chosen))
    colors = _colors({row.contender for row in chosen})
    _, axes = plt.subplots(1, len(cases), figsize=(max(8.4, 5.5 * len(cases)), 3.4), squeeze=False)
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
    axes[0][0].set_ylabel("bytes for a byte")
    caption = "Write amplification: bytes that reach the disk for each byte that was asked to be written, by the block"
    caption += " device's own counters after a sync. Logarithmic; lower is better."
    return Figure("write-amplification", caption, _svg(axes[0]))


def _walls(run: Run) -> Figure | None:
    chosen = [row for row in run.rows.values() if row.metric == "wall" and not row.case]
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
    return Figure(
        "commands", "Wall clock of whole commands, medians with half the distance between the quartiles.", _svg(())
    )


def _colors(contenders: Iterable[str]) -> dict[str, str]:
    """Warm ones for ours, cold ones for peers, grey for limits."""
    ours, peers = iter(_OURS * 9), iter(_PEERS * 9)
    names = sorted(contenders, key=_order)
    return {name: _LIMIT if is_limit(name) else next(ours if is_ours(name) else peers) for name in names}


def _order(contender: str) -> tuple[bool, bool, str]:
    return (is_limit(contender), not is_ours(contender), contender)


def _svg(legend_of: Sequence[Axes]) -> str:
    """The current figure, which is closed, with a legend below it of all that is in some axes."""
    import matplotlib.pyplot as plt

    figure = plt.gcf()
    named = {name: mark for axis in legend_of for mark, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if named:
        lines = -(-len(named) // _COLUMNS)
        figure.tight_layout(rect=(0, 0.07 * lines, 1, 1))
        labels = sorted(named, key=_order)
        figure.legend(
            [named[name] for name in labels],
            labels,
            loc="lower center",
            ncols=min(len(named), _COLUMNS),
            frameon=False,
            fontsize=9,
        )
    out = io.StringIO()
    plt.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)
    text = out.getvalue()
    tag, _, rest = text[text.index("<svg") :].partition(">")
    width = re.search(r' width="([\d.]+)pt"', tag)
    most = f' style="max-width:{float(width[1]) * _LARGEST:.0f}pt"' if width else ""
    return re.sub(r' (width|height)="[^"]*"', "", tag) + most + ">" + rest
