"""The page of a report: HTML and CSS, self-contained, light and dark, from phone to desktop."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from string import Template
from typing import NamedTuple

__all__ = ["Card", "Tile", "card", "page", "section", "shares", "table", "tiles"]

STYLE = """
:root { color-scheme: light dark; --ink: #17202e; --muted: #667085; --grid: #e4e8ee; --page: #f5f6f8;
  --card: #ffffff; --bad: #d92d20; --warn: #fff6e5; --warn-ink: #8a4b08; --good: #0e8a5f;
  --s0: #2563eb; --s1: #e8710a; --s2: #0d9488; --s3: #7c3aed; --s4: #be185d; --s5: #64748b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --muted: #98a2b3; --grid: #2d3442; --page: #10141b;
  --card: #181d27; --bad: #f97066; --warn: #2d2413; --warn-ink: #f5c56b; --good: #3ccb93;
  --s0: #6ea8fe; --s1: #ffa24c; --s2: #3ccfbf; --s3: #b095ff; --s4: #f472b6; --s5: #94a3b8; } }
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
.shares { margin-top: 12px; padding: 14px 16px; }
.bar { display: flex; height: 12px; border-radius: 6px; overflow: hidden; gap: 2px; }
.bar i { min-width: 3px; } .key { display: flex; flex-wrap: wrap; gap: 2px 20px; margin-top: 8px; font-size: 13px; }
.key i { display: inline-block; width: 9px; height: 9px; border-radius: 3px; margin-right: 6px; }
.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: 14px; }
.card { padding: 14px 16px 10px; grid-column: span 2; min-width: 0; margin: 0; } .card.wide { grid-column: span 3; }
.card svg { width: 100%; height: auto; display: block; overflow: visible; }
.card svg text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
.card p { margin: 6px 0 0; color: var(--muted); font-size: 12px; line-height: 1.45; overflow-wrap: anywhere; }
@media (max-width: 1000px) { .card, .card.wide { grid-column: span 3; } }
@media (max-width: 680px) { .card, .card.wide { grid-column: span 6; } h1 { font-size: 25px; }
  .tiles { grid-template-columns: repeat(2, 1fr); } .tile b { font-size: 19px; white-space: normal; } }
.advice { margin: 16px 0 0; padding: 0; list-style: none; display: grid; gap: 8px; }
.advice li { background: var(--warn); color: var(--warn-ink); border-radius: 10px; padding: 9px 14px; font-size: 14px; }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.frame { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--muted); font-weight: 500; font-size: 12.5px; }
th, td { padding: 8px 16px; border-bottom: 1px solid var(--grid); vertical-align: top; }
tr:last-child td { border-bottom: 0; } td code { white-space: pre-wrap; overflow-wrap: anywhere; }
td:last-child, th:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
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
    """(metric name, what it means)"""
    wide: bool = False


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


def shares(parts: Sequence[tuple[str, int, str]]) -> str:
    """Return a bar whose pieces are in proportion to counts; empty when all are 0.

    Args:
      parts: (label, count, colour variable) of each piece.
    """
    present = [
        (html.escape(label), count, f"background:var(--{colour})") for label, count, colour in parts if count > 0
    ]
    bar = "".join(f'<i style="flex:{count};{fill}"></i>' for _, count, fill in present)
    key = "".join(f'<span><i style="{fill}"></i>{count:,} {label}</span>' for label, count, fill in present)
    return (
        f'<div class="frame shares"><div class="bar">{bar}</div><div class="key">{key}</div></div>' if present else ""
    )


def card(item: Card) -> str:
    """Return one chart with its glossary lines."""
    notes = "".join(f"<p><code>{html.escape(name)}</code> {html.escape(text)}</p>" for name, text in item.notes)
    title = f"<h3>{html.escape(item.title)} <span>{html.escape(item.unit)}</span></h3>"
    return f'<figure class="card{" wide" if item.wide else ""}">{title}{item.svg}{notes}</figure>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of code-like cells; empty without rows."""
    lines = ["".join(f"<td><code>{html.escape(cell)}</code></td>" for cell in row) for row in rows]
    if not lines:
        return ""
    titles = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="frame"><table><tr>{titles}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'
