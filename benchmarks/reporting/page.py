"""One self-contained page of a run: headline table, figures, semantics, every row, what is missing, the machine."""

from __future__ import annotations

import html
import shlex
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.disks import HERE
from benchmarks.harness.results import Row, Run, is_limit, is_ours, ratio
from benchmarks.reporting import headline, plots
from benchmarks.reporting.plots import Figure

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h3 { font-size: 1rem; }
summary { cursor: pointer; margin: .6rem 0; } td summary { margin: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
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


def page(run: Run, figures: Sequence[Figure]) -> str:
    """The whole page as HTML."""
    title = f"Lazarus benchmarks, {run.when[:10]}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        "<p>Ratios are the other's median divided by ours, of a rate ours by the other's, in the same run: more than 1"
        " is slower (or more) than Lazarus; a limit is what the machine does without any union or container. A number"
        " is marked as noisy, and a ratio by a ~, when, with a confidence of 95 % (75 % for three samples), it may be"
        " off by more than a tenth."
        f" {_machine(run)}</p>",
        _headline(run),
        "<h2>Figures</h2>" if figures else "",
        *(f"<figure>{one.svg}<figcaption>{_text(one.caption)}</figcaption></figure>" for one in figures),
        "<h2>What each way does</h2><p>Each answer was got by doing it; a row's name opens to the question.</p>"
        if run.semantics
        else "",
        *_semantics(run),
        "<h2>Every row, and how to ask again</h2>",
        *_questions(run),
        "<h2>Missing</h2>",
        _missing(run),
        "<h2>The machine</h2>",
        _facts(run),
        "<h2>To repeat all of it</h2>",
        f"<pre><code>{_text(run.command)}</code></pre>",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{_text(title)}</title><style>{STYLE}</style>"
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def write(run: Run, figures: Sequence[Figure], directory: Path) -> Path:
    """`index.html` in `directory`, which is made when it is missing; beside it each figure as a file and the headline
    as Markdown. The path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "index.html"
    path.write_text(page(run, figures), encoding="utf-8")
    for figure in figures:
        (directory / f"{figure.name}.svg").write_text(plots.standing_alone(figure), encoding="utf-8")
    (directory / "headline.md").write_text(headline.markdown(run), encoding="utf-8")
    return path


def _text(value: object) -> str:
    return html.escape(str(value))


def _machine(run: Run) -> str:
    facts = run.machine
    cpu = facts.get("cpu")
    brand = cpu.get("brand_raw", "") if isinstance(cpu, dict) else ""
    return _text(f"Linux {facts.get('kernel')}, {facts.get('cores')} cores {brand}, on {facts.get('file_system')}.")


def _table(head: Sequence[str], lines: Sequence[str], numbers: Container[int]) -> str:
    """`numbers` are the columns that are aligned on the right."""
    names = "".join(
        f"<th{' class=number' if number in numbers else ''}>{_text(name)}</th>" for number, name in enumerate(head)
    )
    return f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _what(row: Row) -> str:
    return _text(", ".join(part for part in (row.case, row.file_system, row.metric) if part))


def _headline(run: Run) -> str:
    lines = []
    for what, ours, others in headline.lines(run):
        peer, limit = (
            "; ".join(headline.ratios(ours, [row for row in others if is_limit(row.contender) == wanted]))
            for wanted in (False, True)
        )
        where = f", {ours.file_system}" if ours.file_system else ""
        lines.append(
            f'<tr><td>{_text(what + where)}</td><td class="number{_noisy(ours)}">{_text(_amount(ours))}</td>'
            f"<td>{_text(peer)}</td><td>{_text(limit)}</td></tr>"
        )
    return _table(("what", "ours", "peers", "limit"), lines, {1})


def _noisy(row: Row) -> str:
    return " noisy" if row.is_noisy else ""


def _amount(row: Row) -> str:
    return headline.amount(row.median, row.unit)


def _questions(run: Run) -> Iterator[str]:
    """A table a question: every row, how much more it is than ours, and the command that asks it again."""
    for question in dict.fromkeys(row.question for row in run.rows.values()):
        rows = [row for row in run.rows.values() if row.question == question]
        systems = ",".join(dict.fromkeys(row.file_system for row in rows if row.file_system))
        words = f".venv/bin/python -m benchmarks run {question}{_options(run.commands[question], systems)}"
        yield f"<details><summary>{_text(question)}: {len(rows)} rows</summary><p><code>{_text(words)}</code></p>"
        yield _table(("what", "contender", "median", "by ours", "spread", "samples"), _rows(run, rows), {2, 3, 4, 5})
        yield "</details>"


def _options(command: str, systems: str) -> str:
    """What a run was told that makes a difference to a question."""
    words = shlex.split(command)
    kept = ["--quick"] if "--quick" in words else []
    for name in ("--dir", "--size"):
        given = [words[at + 1] for at, word in enumerate(words[:-1]) if word == name]
        given += [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
        kept += [name, given[0]] if given else []
    kept += ["--fs", systems] if systems and systems != HERE else []
    return "".join(f" {word}" for word in map(shlex.quote, kept))


def _rows(run: Run, rows: Sequence[Row]) -> list[str]:
    first = {}
    for row in rows:
        if is_ours(row.contender):
            first.setdefault(row.key._replace(contender=""), row)
    lines = []
    for row in rows:
        ours = first.get(row.key._replace(contender=""))
        found = None if ours is None or is_ours(row.contender) else ratio(ours, row)
        lines.append(
            f'<tr class="{"ours" if is_ours(row.contender) else "peer"}"><td>{_what(row)}</td>'
            f'<td>{_text(row.contender)}</td><td class="number{_noisy(row)}">{_text(_amount(row))}</td>'
            f'<td class="number{" noisy" if found and found.is_noisy else ""}">'
            f"{_text(headline.amount(found.value, 'x')) if found else ''}</td>"
            f'<td class="number">± {_text(headline.amount(row.spread, row.unit))}</td>'
            f'<td class="number">{row.samples}</td></tr>'
        )
    return lines


def _semantics(run: Run) -> Iterator[str]:
    for matrix in run.semantics:
        views = matrix["views"]
        lines = [
            f"<tr><td><details><summary>{_text(row['what'])}</summary>{_text(row['asked'])}</details></td>"
            + "".join(f"<td>{_text(row['answers'].get(view, ''))}</td>" for view in views)
            + "</tr>"
            for row in matrix["rows"]
        ]
        yield f"<h3>{_text(matrix['file_system'])}</h3>"
        yield _table(("", *views), lines, set())


def _missing(run: Run) -> str:
    if not run.missing:
        return "<p>Nothing: every peer was there, and every question was asked.</p>"
    lines = [f"<tr><td>{_text(name)}</td><td>{_text(why)}</td></tr>" for name, why in run.missing.items()]
    return _table(("what", "why"), lines, set())


def _facts(run: Run) -> str:
    facts = sorted(run.machine.items())
    lines = [f"<tr><td>{_text(name)}</td><td>{_text(_said(value))}</td></tr>" for name, value in facts]
    return _table(("fact", "value"), lines, set())


def _said(fact: Any) -> str:
    """A fact in words; of one that has parts, each by its name."""
    if isinstance(fact, dict):
        return "; ".join(f"{name}: {_said(value)}" for name, value in fact.items())
    return ", ".join(map(_said, fact)) if isinstance(fact, list) else str(fact)
