"""The page of a report: HTML and CSS, self-contained, light and dark, from phone to desktop."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence
from string import Template
from typing import NamedTuple

__all__ = ["Card", "Tile", "cards", "code_blocks", "key", "numbers", "page", "section", "shares", "table", "tiles"]

STYLE = """
:root { color-scheme: light dark; --ink: #17202e; --muted: #667085; --grid: #e4e8ee; --page: #f5f6f8;
  --card: #ffffff; --bad: #d92d20; --warn: #fff6e5; --warn-ink: #8a4b08; --good: #0e8a5f;
  --s0: #0b66b0; --s1: #c95100; --s2: #00876a; --s3: #a8518a; --s4: #7d6a00; --s5: #6b7686; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --muted: #98a2b3; --grid: #2d3442; --page: #10141b;
  --card: #181d27; --bad: #f97066; --warn: #2d2413; --warn-ink: #f5c56b; --good: #3ccb93;
  --s0: #63b3f5; --s1: #f28e46; --s2: #2fc7a0; --s3: #dd92c2; --s4: #e3cd4e; --s5: #94a3b8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 28px clamp(14px, 3vw, 40px) 48px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 12px; letter-spacing: -.01em; }
h3 { font-size: 14px; margin: 0 0 6px; } h3 span { color: var(--muted); font-weight: 400; margin-left: 4px; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; margin-bottom: 20px; }
header p { flex-basis: 100%; margin: 0; color: var(--muted); overflow-wrap: anywhere; }
.pill { font-size: 12.5px; font-weight: 600; padding: 2px 11px; border-radius: 99px; color: var(--good);
  background: color-mix(in srgb, currentColor 13%, transparent); }
.pill.open { color: var(--s1); } .pill.failed { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; }
.tile, .card, .frame { background: var(--card); border: 1px solid var(--grid); border-radius: 12px; }
.tile { padding: 12px 16px; } .tile b { display: block; font-size: 23px; line-height: 1.3; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; white-space: nowrap; } .tile.lead b { color: var(--s0); }
.tile span { display: block; color: var(--muted); font-size: 12.5px; }
.shares { margin-top: 12px; padding: 14px 16px; font-size: 13px; }
.shares p { margin: 0 0 8px; color: var(--muted); }
.shares { font-variant-numeric: tabular-nums; }
.shares ul { margin: 8px 0 0; padding: 8px 0 0; list-style: none;
  border-top: 1px solid var(--grid); display: grid; grid-template-columns: max-content 1fr; gap: 2px 10px; }
.shares li { display: contents; } .shares li b { text-align: right; font-weight: 500; }
.shares em { color: var(--muted); font-style: normal; }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; gap: 2px; }
.bar i { min-width: 3px; } .key { display: flex; flex-wrap: wrap; gap: 2px 20px; margin-top: 8px; }
.key i { display: inline-block; width: 9px; height: 9px; border-radius: 3px; margin-right: 6px; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: 14px; }
.card { padding: 14px 16px 12px; min-width: 0; margin: 0; }
.card svg { width: 100%; height: auto; display: block; }
.card svg text { font-family: inherit !important; font-variant-numeric: tabular-nums; paint-order: stroke;
  stroke: var(--card); stroke-width: 2.5px; stroke-linejoin: round; }
.card p { margin: 6px 0 0; color: var(--muted); font-size: 12px; line-height: 1.45; overflow-wrap: anywhere; }
.card code, pre { font-size: 11.5px; color: var(--ink); }
@media (max-width: 1000px) { .cards { grid-template-columns: repeat(2, 1fr); }
  .tiles { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 680px) { .cards { grid-template-columns: 1fr; } h1 { font-size: 25px; } .tile { padding: 10px 12px; }
  .tile b { font-size: 18px; } th, td { padding: 7px 10px; } }
.advice { margin: 16px 0 0; padding: 0; list-style: none; display: grid; gap: 8px; }
.advice li { background: var(--warn); color: var(--warn-ink); border-radius: 10px; padding: 9px 14px; font-size: 14px; }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 0 14px; }
.blocks { padding: 6px 18px; columns: 300px; column-gap: 32px; }
.blocks pre { margin: 0; padding: 7px 0; break-inside: avoid; white-space: pre-wrap; overflow-wrap: anywhere; }
.frame { overflow-x: auto; } .cards + .frame { margin-top: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--muted); font-weight: 500; font-size: 12.5px; }
th, td { padding: 8px 16px; border-bottom: 1px solid var(--grid); vertical-align: baseline; }
tr:last-child td { border-bottom: 0; } td code { display: block; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 12em; overflow-y: auto; }
td:last-child, th:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures td + td, .figures th + th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures { margin-top: 12px; }
details summary { cursor: pointer; font-weight: 600; margin: 34px 0 12px; }
footer { margin-top: 34px; color: var(--muted); font-size: 12.5px; }
"""

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>$style</style></head>
<body><main>
<header><h1>$title</h1><span class="pill $state">$status</span><p>$subtitle</p></header>
$body
<footer>$footer</footer>
</main></body></html>
""")


COLOURS = 6  # of a chart's lines: --s0 to --s5
STROKES = ("", " (dashed)", " (dotted)")  # once the colours are used up


class Tile(NamedTuple):
    """One headline number."""

    label: str
    value: str
    detail: str = ""
    lead: bool = False


class Card(NamedTuple):
    """One chart."""

    title: str
    unit: str
    svg: str
    notes: Sequence[tuple[str, str]]
    """(metric name, what it means); an empty name is a remark"""


def page(title: str, status: str, subtitle: str, body: Iterable[str], footer: str) -> str:
    """Return the whole document; texts are escaped, `body` is HTML."""
    state = {"finished": "", "failed": "failed"}.get(status, "open")
    texts = {"title": title, "status": status, "subtitle": subtitle, "footer": footer}
    escaped = {name: html.escape(text) for name, text in texts.items()}
    return PAGE.substitute(escaped, style=STYLE, state=state, body="\n".join(filter(None, body)))


def section(title: str, content: str, folded: bool = False) -> str:
    """Return a titled part of the page; empty for empty content."""
    if not content:
        return ""
    if folded:
        return f"<details><summary>{html.escape(title)}</summary>{content}</details>"
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def tiles(items: Iterable[Tile]) -> str:
    """Return the row of headline numbers."""
    cells = (
        f'<div class="tile{" lead" if t.lead else ""}"><span>{html.escape(t.label)}</span><b>{html.escape(t.value)}</b>'
        f"<span>{html.escape(t.detail)}</span></div>"
        for t in items
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def shares(parts: Sequence[tuple[str, int, str]], lead: str, rows: Iterable[tuple[str, str, str]]) -> str:
    """Return a bar whose pieces are in proportion to counts; empty when all are 0.

    Args:
      parts: (label, count, colour variable) of each piece.
      lead: a line above the bar.
      rows: (count, what, why) of lines below it.
    """
    present = [
        (html.escape(label), count, f"background:var(--{colour})") for label, count, colour in parts if count > 0
    ]
    if not present:
        return ""
    bar = "".join(f'<i style="flex:{count};{fill}"></i>' for _, count, fill in present)
    key = "".join(f'<span><i style="{fill}"></i>{count:,} {label}</span>' for label, count, fill in present)
    escaped = (tuple(map(html.escape, row)) for row in rows)
    lines = "".join(f"<li><b>{count}</b><span>{what} <em>{why}</em></span></li>" for count, what, why in escaped)
    return (
        f'<div class="frame shares"><p>{html.escape(lead)}</p><div class="bar">{bar}</div>'
        f'<div class="key">{key}</div>{f"<ul>{lines}</ul>" if lines else ""}</div>'
    )


def key(labels: Sequence[str]) -> str:
    """Return which colour is whose, in the order of a chart's lines."""
    lines = ((label, f"var(--s{i % COLOURS})", STROKES[i // COLOURS % len(STROKES)]) for i, label in enumerate(labels))
    names = (f'<span><i style="background:{fill}"></i>{html.escape(x)}{stroke}</span>' for x, fill, stroke in lines)
    return f'<div class="key">{"".join(names)}</div>'


def cards(items: Sequence[Card]) -> str:
    """Return the charts with their glossary lines; empty without any."""
    return f'<div class="cards">{"".join(map(_card, items))}</div>' if items else ""


def _card(item: Card) -> str:
    notes = "".join(
        f"<p>{f'<code>{html.escape(name)}</code> ' if name else ''}{html.escape(text)}</p>" for name, text in item.notes
    )
    title = f"<h3>{html.escape(item.title)} <span>{html.escape(item.unit)}</span></h3>"
    svg = item.svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(item.title)}"', 1)
    return f'<figure class="card">{title}{svg}{notes}</figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], code: Collection[int] = ()) -> str:
    """Return a table; empty without rows.

    Args:
      code: columns that are set in a fixed width, with their spaces and line breaks.
    """
    lines = ["".join(f"<td>{_cell(cell, i in code)}</td>" for i, cell in enumerate(row)) for row in rows]
    if not lines:
        return ""
    titles = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="frame"><table><tr>{titles}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _cell(text: str, code: bool) -> str:
    return f"<code>{html.escape(text)}</code>" if code else html.escape(text)


def numbers(content: str) -> str:
    """Return a table whose columns behind the first one are aligned as numbers; empty for an empty one."""
    return f'<div class="figures">{content}</div>' if content else ""


def code_blocks(texts: Sequence[str]) -> str:
    """Return texts of fixed width side by side; empty without any."""
    blocks = "".join(f"<pre>{html.escape(text.strip())}</pre>" for text in texts)
    return f'<div class="frame blocks">{blocks}</div>' if blocks else ""
