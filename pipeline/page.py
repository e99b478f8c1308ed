"""What the pages for people are made of: each is one file, without a script or a network request.

File names, class names and reasons come from outside: whatever is put into a template goes through
`text` first.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from pipeline.report import shown

VOID_COLOR = (0, 0, 0)


def document(title: str, content: str, style: str = "") -> str:
    """A whole page.

    Args:
      title: A text from outside may be in it.
      content: HTML.
      style: CSS after `STYLE`.
    """
    return _DOCUMENT.format(title=text(title), style=STYLE + style, content=content)


def table(
    heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], style: str = "numbers"
) -> str:
    """A table of texts.

    Args:
      heads: Of its columns.
      rows: A title and the other cells of each.
      style: ``numbers`` or ``words``.
    """
    head = "".join(f"<th scope=col>{text(head)}</th>" for head in heads)
    body = "".join(
        f"<tr><th scope=row>{text(title)}</th>"
        + "".join(f"<td>{text(cell)}</td>" for cell in cells)
        + "</tr>"
        for title, cells in rows
    )
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def bar_cell(fraction: float, color: Sequence[int], label: str) -> str:
    """A table's cell with a bar and a text behind it; a fraction of 1 fills it, of 0 shows none."""
    bar = f'<i class="bar" style="width:{fraction:.2%};background:{css_color(color)}"></i>'
    return (
        f'<td class="share"><div><span class="track">{bar if fraction else ""}</span>'
        f"<span>{text(label)}</span></div></td>"
    )


def figure(
    name: str,
    facts: str,
    panels: Sequence[tuple[str, str, bytes]],
    chips: Sequence[tuple[Sequence[int], str]],
) -> str:
    """Pictures of one thing side by side.

    Args:
      name: Of the thing.
      facts: What is to be said of it.
      panels: Title, media type and file of each picture.
      chips: Colours that are in them, RGB, with their meanings.
    """
    pictures = "".join(
        f'<div><img alt="{title} of {text(name)}" src="data:{kind};base64,{_base64(data)}">'
        f"<span>{title}</span></div>"
        for title, kind, data in panels
    )
    meanings = "".join(f"<li>{swatch(color)}{text(meaning)}</li>" for color, meaning in chips)
    return (
        f"<figure><figcaption><b>{text(name)}</b> {text(facts)}</figcaption>"
        f'<div class="strip">{pictures}</div><ul class="chips">{meanings}</ul></figure>'
    )


def swatch(color: Sequence[int]) -> str:
    """A small square of a colour, RGB."""
    return f'<i class="swatch" style="background:{css_color(color)}"></i>'


def css_color(color: Sequence[int]) -> str:
    """RGB as CSS writes it."""
    return "#" + "".join(f"{int(level):02x}" for level in color)


def text(value: str) -> str:
    """A text from outside, as text of the page."""
    return html.escape(shown(value))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1d2530; --quiet: #5b6675; --line: #dde2e8; --panel: #f4f6f8;
  --warn: #fff6e3; --warn-line: #e0a030; --accent: #1f5fbf;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e4e8ed; --quiet: #9aa5b3; --line: #313943; --panel: #1d232a;
    --warn: #2e2716; --warn-line: #b98527; --accent: #7fb0ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 1140px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 32px; line-height: 1.2; margin: 0 0 12px; }
h2 { font-size: 21px; margin: 48px 0 8px; padding-top: 20px; border-top: 1px solid var(--line); }
p { max-width: 76ch; margin: 8px 0 14px; }
code { font-size: 0.92em; overflow-wrap: anywhere; }
ul { list-style: none; padding: 0; }
.lead { font-size: 18px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 22px 0; }
.cards li {
  flex: 1 1 200px; padding: 14px 18px; background: var(--panel); border-radius: 8px;
  color: var(--quiet); overflow-wrap: anywhere;
}
.cards b { display: block; font-size: 30px; line-height: 1.2; color: var(--ink); }
.warnings li {
  margin: 8px 0; padding: 9px 14px; max-width: 100ch; background: var(--warn);
  border-left: 4px solid var(--warn-line); border-radius: 4px; overflow-wrap: anywhere;
}
.scroll { overflow-x: auto; }
.columns { display: flex; flex-wrap: wrap; gap: 8px 64px; align-items: flex-start; }
table { border-collapse: collapse; margin: 10px 0; font-size: 15px; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child { text-align: left; font-weight: normal; }
thead th, thead th:first-child { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers th, .numbers td { padding-left: 18px; }
.numbers th:first-child { padding-left: 0; }
.words th, .words td { text-align: left; white-space: normal; padding-right: 28px; }
.classes { width: 100%; }
.classes th:first-child { white-space: nowrap; }
.classes thead tr:first-child th { border-bottom: 0; padding-bottom: 0; }
.classes .group { text-align: center; }
.share { width: 26%; min-width: 150px; }
.share div { display: flex; align-items: center; }
.share span:last-child { width: 72px; }
.track { flex: 1; }
.bar {
  display: block; height: 13px; min-width: 1px; border-radius: 2px;
  box-shadow: 0 0 0 1px rgba(128, 128, 128, 0.45);
}
.swatch {
  display: inline-block; width: 14px; height: 14px; margin-right: 8px; border-radius: 3px;
  vertical-align: -2px; box-shadow: 0 0 0 1px rgba(128, 128, 128, 0.45);
}
figure { margin: 22px 0 30px; }
figcaption { margin-bottom: 6px; color: var(--quiet); font-size: 14px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); margin-right: 10px; font-size: 15px; }
.strip { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
.strip img { display: block; width: 100%; height: auto; border-radius: 4px; }
.strip span { display: block; margin-top: 3px; font-size: 13px; color: var(--quiet); }
.chips { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0 0; font-size: 13px; }
.chips .swatch { width: 11px; height: 11px; margin-right: 5px; vertical-align: -1px; }
@media (max-width: 700px) {
  .strip { grid-template-columns: repeat(2, 1fr); }
  main { padding: 24px 14px 60px; }
}
"""

_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{content}
</main>
</body>
</html>
"""
