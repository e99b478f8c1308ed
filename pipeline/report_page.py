"""A records folder's findings as a web page, for readers who never saw the project."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import page
from pipeline.dataset_info import BAD_PAIRS_FILE, DUPLICATES_FILE, TRAIN_SPLIT, DatasetInfo
from pipeline.report import Findings, count_rows, share, split_rows
from pipeline.strips import FAR_COLOR, UNSURE_COLOR, Strip

_NUM_LISTED = 50
"""Bad pairs and duplicates that the page lists; the files beside it hold all."""

_NUM_COUNTED = 12
"""Sizes and kinds of file that have a row of their own."""

_NUM_CHIPS = 6
"""Classes that are named below a picture."""


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
    return page.document(f"{info.name}: a data set for segmentation", "\n".join(sections), _STYLE)


def _overview(info: DatasetInfo) -> str:
    total = sum(split.num_records for split in info.splits.values())
    cards = "".join(
        f"<li><b>{split.num_records:,}</b> <span>pictures in {page.text(name)}, "
        f"{_PURPOSES.get(name, 'a part of its own')}</span></li>"
        for name, split in info.splits.items()
    )
    return _OVERVIEW.format(
        name=page.text(info.name),
        total=f"{total:,}",
        num_classes=info.palette.num_classes,
        cards=cards,
        table=page.table(["", *info.splits], split_rows(info)),
    )


_PURPOSES = {
    TRAIN_SPLIT: "to learn from",
    "val": "to check on while learning",
    "test": "to measure with at the end",
}


def _warnings(findings: Findings) -> str:
    if warnings := findings.warnings():
        items = "".join(f"<li>{page.text(warning)}</li>" for warning in warnings)
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
        cells = [f"<th scope=row>{page.swatch(colors[k])}{page.text(name)}</th>"]
        cells += [_bar(s.class_pixels[k], s.num_pixels, largest, colors[k]) for s in splits]
        cells += [f"<td>{split.class_records[k]:,}</td>" for split in splits]
        cells.append(f"<td>{weight:.2f}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    ignored = "".join(
        _bar(split.ignored_pixels, split.num_pixels, largest, page.VOID_COLOR) for split in splits
    )
    rest = "<td></td>" * (len(splits) + 1)
    rows.append(
        f"<tr><th scope=row>{page.swatch(page.VOID_COLOR)}no class (void)</th>{ignored}{rest}</tr>"
    )
    names = "".join(f"<th scope=col>{page.text(name)}</th>" for name in info.splits)
    return _CLASSES.format(span=len(splits), names=names, rows="".join(rows))


def _bar(pixels: int, total: int, largest: float, color: Sequence[int]) -> str:
    """A cell with a class's share of a split as a bar; `largest` is the share that fills it."""
    width = min(pixels / max(total, 1) / largest, 1.0)
    return page.bar_cell(width, color, share(pixels, total))


def _samples(samples: Sequence[Strip], info: DatasetInfo) -> str:
    return _SAMPLES.format(strips="".join(_figure(strip, info) for strip in samples))


def _worst(worst: Sequence[Strip], info: DatasetInfo) -> str:
    if not worst:
        return _NO_WORST
    return _WORST.format(strips="".join(_figure(strip, info) for strip in worst))


def _figure(strip: Strip, info: DatasetInfo) -> str:
    colors = info.palette.class_colors
    by_share = sorted(range(len(strip.class_shares)), key=lambda k: -strip.class_shares[k])
    return page.figure(
        f"{strip.split}/{strip.key}",
        f"{strip.coding}, {strip.size.replace('x', ' x ')} pixels; {strip.unsure:.2%} "
        f"of them of unsure class, {strip.unknown:.2%} of unknown colour",
        panels=[
            ("Photo", "image/jpeg", strip.photo),
            ("Mask as stored", "image/jpeg", strip.mask),
            ("Classes read back", "image/png", strip.recovered),
            ("Where they differ", "image/jpeg", strip.doubt),
        ],
        chips=[
            (colors[k], f"{info.palette.class_names[k]} {strip.class_shares[k]:.1%}")
            for k in by_share[:_NUM_CHIPS]
            if strip.class_shares[k]
        ],
    )


def _files(info: DatasetInfo) -> str:
    splits = list(info.splits.values())
    return _FILES.format(
        sizes=page.table(
            ["Width x height", *info.splits], count_rows(splits, "sizes", _NUM_COUNTED)
        ),
        codings=page.table(
            ["Kind of file", *info.splits], count_rows(splits, "codings", _NUM_COUNTED)
        ),
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
    kinds = page.table(
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
    return _MAKING.format(table=page.table(["", ""], rows, "words"))


def _long_table(heads: Sequence[str], rows: Sequence[tuple[str, list[str]]], file: str) -> str:
    table = page.table(heads, rows[:_NUM_LISTED], "words")
    if len(rows) > _NUM_LISTED:
        table += f"<p>And {len(rows) - _NUM_LISTED:,} more: all are in {page.text(file)}.</p>"
    return table


_STYLE = f"""
.far, .unsure {{ padding: 0 5px; border-radius: 3px; color: #fff; }}
.far {{ background: {page.css_color(FAR_COLOR)}; }}
.unsure {{ background: {page.css_color(UNSURE_COLOR)}; }}
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
