"""A records folder's findings as a web page: one file, for readers who never saw the project.

The page needs no network and runs no script. File names, class names and reasons come from
outside: whatever is put into a template goes through `_text` first.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from pipeline.dataset_info import BAD_PAIRS_FILE, DUPLICATES_FILE, TRAIN_SPLIT, DatasetInfo
from pipeline.report import Findings, count_rows, share, shown, split_rows
from pipeline.strips import FAR_COLOR, UNSURE_COLOR, Strip

_NUM_LISTED = 50
"""Bad pairs and duplicates that the page lists; the files beside it hold all."""

_NUM_COUNTED = 12
"""Sizes and kinds of file that have a row of their own."""

_NUM_CHIPS = 6
"""Classes that are named below a picture."""

_VOID_COLOR = (0, 0, 0)


def as_page(findings: Findings, samples: Sequence[Strip], worst: Sequence[Strip]) -> str:
    """The page; the same findings and pictures give the same text.

    Args:
      findings: What is to be said.
      samples: Ordinary pairs, to get an impression.
      worst: The pairs whose labels could be read back worst, the very worst first.
    """
    info = findings.info
    sections = [
        _overview(info),
        _warnings(findings),
        _classes(info),
        _files(info),
        _duplicates(findings),
        _bad_pairs(findings),
        _samples(samples, info),
        _worst(worst, info),
        _making(info),
    ]
    return _PAGE.format(
        title=_text(info.name),
        style=_STYLE,
        far=_css_color(FAR_COLOR),
        unsure=_css_color(UNSURE_COLOR),
        content="\n".join(sections),
    )


def _overview(info: DatasetInfo) -> str:
    total = sum(split.num_records for split in info.splits.values())
    cards = "".join(
        f"<li><b>{split.num_records:,}</b> <span>pictures in {_text(name)}, {purpose}</span></li>"
        for name, split in info.splits.items()
        for purpose in [_PURPOSES.get(name, "a part of its own")]
    )
    return _OVERVIEW.format(
        name=_text(info.name),
        total=f"{total:,}",
        num_classes=info.palette.num_classes,
        cards=cards,
        table=_table(["", *info.splits], split_rows(info)),
    )


_PURPOSES = {
    TRAIN_SPLIT: "to learn from",
    "val": "to check on while learning",
    "test": "to measure with at the end",
}


def _warnings(findings: Findings) -> str:
    if warnings := findings.warnings():
        items = "".join(f"<li>{_text(warning)}</li>" for warning in warnings)
        return _WARNINGS.format(items=items)
    return _NO_WARNINGS


def _classes(info: DatasetInfo) -> str:
    splits = list(info.splits.values())
    largest = max((max(s.class_pixels) / max(s.num_pixels, 1) for s in splits), default=0) or 1
    colors = info.palette.class_colors
    rows = []
    for k, (name, weight) in enumerate(
        zip(info.palette.class_names, info.class_weights(), strict=True)
    ):
        cells = [f"<th scope=row>{_swatch(colors[k])}{_text(name)}</th>"]
        cells += [_bar(s.class_pixels[k], s.num_pixels, largest, colors[k]) for s in splits]
        cells += [f"<td>{split.class_records[k]:,}</td>" for split in splits]
        cells.append(f"<td>{weight:.2f}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    ignored = "".join(
        _bar(split.ignored_pixels, split.num_pixels, largest, _VOID_COLOR) for split in splits
    )
    rest = "<td></td>" * (len(splits) + 1)
    rows.append(f"<tr><th scope=row>{_swatch(_VOID_COLOR)}no class (void)</th>{ignored}{rest}</tr>")
    names = "".join(f"<th scope=col>{_text(name)}</th>" for name in info.splits)
    return _CLASSES.format(span=len(splits), names=names, rows="".join(rows))


def _bar(pixels: int, total: int, largest: float, color: Sequence[int]) -> str:
    """A cell with a class's share of a split as a bar; `largest` is the share that fills it."""
    width = min(100 * pixels / max(total, 1) / largest, 100) if pixels else 0
    bar = f'<i class="bar" style="width:{width:.2f}%;background:{_css_color(color)}"></i>'
    return (
        f'<td class="share"><div><span class="track">{bar if pixels else ""}</span>'
        f"<span>{_text(share(pixels, total))}</span></div></td>"
    )


def _samples(samples: Sequence[Strip], info: DatasetInfo) -> str:
    return _SAMPLES.format(strips="".join(_figure(strip, info) for strip in samples))


def _worst(worst: Sequence[Strip], info: DatasetInfo) -> str:
    if not worst:
        return _NO_WORST
    return _WORST.format(strips="".join(_figure(strip, info) for strip in worst))


def _figure(strip: Strip, info: DatasetInfo) -> str:
    name = _text(f"{strip.split}/{strip.key}")
    panels = "".join(
        f'<div><img alt="{alt} of {name}" src="data:{kind};base64,{_base64(data)}">'
        f"<span>{alt}</span></div>"
        for alt, kind, data in (
            ("Photo", "image/jpeg", strip.photo),
            ("Mask as stored", "image/jpeg", strip.mask),
            ("Classes read back", "image/png", strip.recovered),
            ("Where they differ", "image/jpeg", strip.doubt),
        )
    )
    colors = info.palette.class_colors
    by_share = sorted(range(len(strip.class_shares)), key=lambda k: -strip.class_shares[k])
    chips = "".join(
        f"<li>{_swatch(colors[k])}{_text(info.palette.class_names[k])} "
        f"{strip.class_shares[k]:.1%}</li>"
        for k in by_share[:_NUM_CHIPS]
        if strip.class_shares[k]
    )
    facts = (
        f"{strip.coding}, {strip.size.replace('x', ' x ')} pixels; {strip.unsure:.2%} "
        f"of them of unsure class, {strip.unknown:.2%} of unknown colour"
    )
    return (
        f'<figure><figcaption><b>{name}</b> {_text(facts)}</figcaption><div class="strip">{panels}'
        f'</div><ul class="chips">{chips}</ul></figure>'
    )


def _files(info: DatasetInfo) -> str:
    splits = list(info.splits.values())
    return _FILES.format(
        sizes=_table(["Width x height", *info.splits], count_rows(splits, "sizes", _NUM_COUNTED)),
        codings=_table(["Kind of file", *info.splits], count_rows(splits, "codings", _NUM_COUNTED)),
    )


def _duplicates(findings: Findings) -> str:
    if not findings.duplicates:
        return _NO_DUPLICATES
    rows = [
        (f"{e.split}/{e.key}", [e.duplicate_of, "left out" if e.dropped else "kept"])
        for e in findings.duplicates
    ]
    table = _long_table(["Pair", "has the same bytes as", ""], rows, DUPLICATES_FILE)
    return _DUPLICATES.format(table=table)


def _bad_pairs(findings: Findings) -> str:
    if not findings.bad:
        return _NO_BAD_PAIRS
    kinds = _table(
        ["Kind of fault", "files"], [(k, [f"{n:,}"]) for k, n in findings.kinds_of_fault()]
    )
    rows = [(f"{e.split}/{e.key}", [e.error, e.reason]) for e in findings.bad]
    table = _long_table(["File", "kind of fault", "reason"], rows, BAD_PAIRS_FILE)
    return _BAD_PAIRS.format(kinds=kinds, table=table)


def _making(info: DatasetInfo) -> str:
    versions = info.provenance.get("versions", {})
    options = {name: value for name, value in info.provenance.items() if name != "versions"}
    rows = [(name.replace("_", " "), [str(value)]) for name, value in options.items()]
    rows += [(f"version of {name}", [str(value)]) for name, value in versions.items()]
    for title, levels in (("mean", info.mean), ("standard deviation", info.std)):
        rows.append((f"{title} of red, green, blue", [", ".join(f"{x:.1f}" for x in levels)]))
    return _MAKING.format(table=_table(["", ""], rows, "words"))


def _long_table(heads: Sequence[str], rows: Sequence[tuple[str, list[str]]], file: str) -> str:
    table = _table(heads, rows[:_NUM_LISTED], "words")
    if len(rows) > _NUM_LISTED:
        table += f"<p>And {len(rows) - _NUM_LISTED:,} more: all are in {_text(file)}.</p>"
    return table


def _table(
    heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], style: str = "numbers"
) -> str:
    head = "".join(f"<th scope=col>{_text(head)}</th>" for head in heads)
    body = "".join(
        f"<tr><th scope=row>{_text(title)}</th>"
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for title, cells in rows
    )
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _swatch(color: Sequence[int]) -> str:
    return f'<i class="swatch" style="background:{_css_color(color)}"></i>'


def _css_color(color: Sequence[int]) -> str:
    return "#" + "".join(f"{int(level):02x}" for level in color)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _text(text: str) -> str:
    """A text from outside, as text of the page."""
    return html.escape(shown(text))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}: a data set for segmentation</title>
<style>{style}
:root {{ --far: {far}; --unsure: {unsure}; }}
</style>
</head>
<body>
<main>
{content}
</main>
</body>
</html>
"""

_STYLE = """
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
.far, .unsure { padding: 0 5px; border-radius: 3px; color: #fff; }
.far { background: var(--far); } .unsure { background: var(--unsure); }
@media (max-width: 700px) {
  .strip { grid-template-columns: repeat(2, 1fr); }
  main { padding: 24px 14px 60px; }
}
"""

_OVERVIEW = """<header>
<h1>What is in the data set &ldquo;{name}&rdquo;</h1>
<p class="lead">{total} photos, each with a label map that says of every pixel which of
{num_classes} classes it shows. A program can learn from them to do the same for new photos, which
is called semantic segmentation.</p>
<p>They were made from <em>pairs</em>: image files with a photo in one half and, in the other, a
<em>mask</em>: the same scene painted with one colour for each class. Such files are mostly JPEGs,
whose compression changes colours a little, and more along edges. So the class of each pixel had to
be read back from a colour that is only nearly right. This page shows what was found, and how well
that went.</p>
<ul class="cards">{cards}</ul>
</header>
<section>
<h2>The parts of the data set</h2>
<p>A data set is split so that what is learned from one part can be measured on pictures that were
never seen. A pair that could not be used counts as bad; one that training must not see, because
another part holds the same file, is dropped. A pixel is of unsure class where another class would
be nearly as likely, and of unknown colour where its colour is far from that of every class, as
happens along edges.</p>
{table}
</section>"""

_WARNINGS = """<section>
<h2>To look at before training</h2>
<ul class="warnings">{items}</ul>
</section>"""

_NO_WARNINGS = """<section>
<h2>To look at before training</h2>
<p>Nothing: no duplicates, no unusable pairs, one size, and every class can be learned.</p>
</section>"""

_CLASSES = """<section>
<h2>Classes</h2>
<p>How much of each split's area every class takes, and in how many pictures it occurs at all. If
the splits differ much, scores on one say little about the other. A class that occurs in many
pictures with hardly any pixels is often none: colours in between two others, along edges, can look
like a third. The weight is what a pixel of the class may count in training, so that rare classes
are not drowned: 1 / ln(1.02 + share), as in ENet (Paszke et al. 2016), over the pixels that have a
class; 0 where there is nothing to learn from.</p>
<div class="scroll"><table class="classes">
<thead>
<tr><th></th><th class="group" colspan="{span}">share of pixels</th>
<th class="group" colspan="{span}">pictures with it</th><th></th></tr>
<tr><th scope=col>Class</th>{names}{names}<th scope=col>weight</th></tr>
</thead>
<tbody>{rows}</tbody>
</table></div>
</section>"""

_LEGEND = """The last picture shows where to doubt: <span class="far">orange</span>, the stronger
the further the mask's colour is from the colour of the class that it was read as; <span
class="unsure">blue</span>, where another class would be nearly as likely. Black pixels among the
classes read back are void: they belong to no class and do not count."""

_SAMPLES = f"""<section>
<h2>Ordinary examples</h2>
<p>A few pairs of each split, taken at random. {_LEGEND}</p>
{{strips}}
</section>"""

_WORST = """<section>
<h2>The hardest to read back</h2>
<p>The pairs with the largest share of pixels of unsure class, then of unknown colour. If these
look right, so do the others; where one looks damaged, or painted in other colours than the rest,
mend the file or leave it out.</p>
{strips}
</section>"""

_NO_WORST = """<section>
<h2>The hardest to read back</h2>
<p>There are none: every pixel of every mask had the colour of a class, beyond doubt.</p>
</section>"""

_FILES = """<section>
<h2>Files</h2>
<p>Sizes of the photos, and how the files were stored. The number after JPEG is its quality, 1 to
100: at 90 and more, masks are nearly as they were painted, at 50 edges are coarse. 4:2:0 means that
four pixels share one colour, which blurs thin things; 4:4:4 that each has its own. PNG files keep
colours exactly.</p>
<div class="columns">{sizes}{codings}</div>
</section>"""

_DUPLICATES = """<section>
<h2>Duplicates</h2>
<p>Pairs whose file is, byte for byte, another pair's. A training picture on which the result is
measured, too, makes it look better than it is; such pairs are left out of training unless it was
told to keep them. Other duplicates are kept: they count more than once.</p>
{table}
</section>"""

_NO_DUPLICATES = """<section>
<h2>Duplicates</h2>
<p>None: no two files have the same bytes, within a split or across splits.</p>
</section>"""

_BAD_PAIRS = """<section>
<h2>Files that are no usable pair</h2>
<p>They are in no split. The reason says what to mend.</p>
{kinds}
{table}
</section>"""

_NO_BAD_PAIRS = """<section>
<h2>Files that are no usable pair</h2>
<p>None: every file was an image with a photo in one half and a mask in the other.</p>
</section>"""

_MAKING = """<section>
<h2>How it was made</h2>
{table}
</section>"""
