"""One self-contained page of a run: headline table, figures, every row, what is missing, the machine, how to repeat."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.results import Row, Run, is_ours, peers
from benchmarks.reporting.plots import Figure

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; } .wide table { min-width: 44rem; } p { overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.ours td { font-weight: 600; }
td.noisy::after { content: " noisy"; color: #b3261e; }
figure { margin: 1.5rem 0; padding: .5rem; background: #fff; color: #222; border: 1px solid var(--line); }
figure { overflow-x: auto; }
figure svg { width: 100%; min-width: 34rem; height: auto; display: block; }
figcaption { font-size: .9rem; } code { background: var(--soft); padding: .1rem .3rem; } pre { overflow-x: auto; }
"""


class Line(NamedTuple):
    """A row of ours beside the same row of the peers of its run, in their order."""

    ours: Row
    peers: list[Row]


def headline(run: Run) -> Iterator[Line]:
    """Every row of ours that a peer has, too; what it takes of the machine is in the table of all rows."""
    for row in run.rows.values():
        if not is_ours(row.contender) or row.metric in ("cpu", "peak memory"):
            continue
        if found := [run.rows[key] for key in peers(run, row.key)]:
            yield Line(row, found)


def ratio(ours: Row, peer: Row) -> float:
    """How much more the peer takes; of a rate, how much less it does."""
    return ours.median / peer.median if ours.is_rate else peer.median / ours.median


def amount(value: float, unit: str) -> str:
    """With three digits, and the prefix that makes it readable: 0.00065 s is 650 us."""
    if unit == "s" and 0 < abs(value) < 1:
        for factor, name in ((1e3, "ms"), (1e6, "us"), (1e9, "ns")):
            if abs(value) * factor >= 1:
                return f"{value * factor:.3g} {name}"
    number = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return number + unit if unit == "x" else f"{number} {unit}"


def page(run: Run, figures: Sequence[Figure]) -> str:
    """The whole page as HTML."""
    title = f"Lazarus benchmarks, {run.when[:10]}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>Ratios are a peer's median divided by ours, in the same run: more than 1 is slower (or more) than Lazarus."
        f" {_machine(run)}</p>",
        "<h2>Figures</h2>" if figures else "",
        *(f"<figure>{one.svg}<figcaption>{_text(one.caption)}</figcaption></figure>" for one in figures),
        "<h2>Against peers</h2>",
        _headline(run),
        "<h2>Every row</h2>",
        _rows(run),
        "<h2>Missing</h2>",
        _missing(run),
        "<h2>The machine</h2>",
        _facts(run),
        "<h2>To repeat it</h2>",
        f"<pre><code>{_text(run.command)}</code></pre>",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{_text(title)}</title><style>{STYLE}</style>"
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def write(run: Run, figures: Sequence[Figure], directory: Path) -> Path:
    """`index.html` in `directory`, which is made when it is missing. The path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "index.html"
    path.write_text(page(run, figures), encoding="utf-8")
    return path


def _text(value: object) -> str:
    return html.escape(str(value))


def _machine(run: Run) -> str:
    facts = run.machine
    cpu = facts.get("cpu")
    brand = cpu.get("brand_raw", "") if isinstance(cpu, dict) else ""
    return _text(f"Linux {facts.get('kernel')}, {facts.get('cores')} cores {brand}, on {facts.get('file_system')}.")


def _table(head: Sequence[str], lines: Sequence[str], numbers: int) -> str:
    names = "".join(
        f"<th{' class=number' if number >= numbers else ''}>{_text(name)}</th>" for number, name in enumerate(head)
    )
    return f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _what(row: Row) -> str:
    return _text(", ".join(part for part in (row.case, row.file_system, row.metric) if part))


def _headline(run: Run) -> str:
    lines = []
    for ours, others in headline(run):
        ratios = "; ".join(
            f"{peer.contender} {amount(ratio(ours, peer), 'x')}" for peer in others if peer.median and ours.median
        )
        lines.append(
            f"<tr><td>{_text(ours.question)}</td><td>{_what(ours)}</td><td>{_text(ours.contender)}</td>"
            f'<td class="number{" noisy" if ours.is_noisy else ""}">{_text(amount(ours.median, ours.unit))}</td>'
            f"<td>{_text(ratios)}</td></tr>"
        )
    return _table(("question", "what", "", "ours", "peers"), lines, 99)


def _rows(run: Run) -> str:
    lines = []
    for row in run.rows.values():
        kind, noisy = "ours" if is_ours(row.contender) else "peer", " noisy" if row.is_noisy else ""
        lines.append(
            f'<tr class="{kind}"><td>{_text(row.question)}</td><td>{_what(row)}</td><td>{_text(row.contender)}</td>'
            f'<td class="number{noisy}">{_text(amount(row.median, row.unit))}</td>'
            f'<td class="number">± {_text(amount(row.spread, row.unit))}</td><td class="number">{row.samples}</td></tr>'
        )
    return _table(("question", "what", "contender", "median", "spread", "samples"), lines, 3)


def _missing(run: Run) -> str:
    if not run.missing:
        return "<p>Nothing: every peer was there, and every question was asked.</p>"
    lines = [f"<tr><td>{_text(name)}</td><td>{_text(why)}</td></tr>" for name, why in run.missing.items()]
    return _table(("what", "why"), lines, 99)


def _facts(run: Run) -> str:
    lines = [f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in sorted(run.machine.items())]
    return _table(("fact", "value"), lines, 99)
