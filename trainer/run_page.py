"""A run as a web page: what it learned, where it fails, and a model card."""

from __future__ import annotations

import time
from collections.abc import Sequence

import cv2
import numpy as np

from model import metrics
from pipeline import page
from pipeline.dataset_info import SplitInfo
from pipeline.palette import Palette
from pipeline.report import Findings, share
from pipeline.strips import encode_rgb, shrink
from trainer import charts, pictures
from trainer.charts import Line
from trainer.config import Config, leaves
from trainer.curves import Point
from trainer.evaluation import Example
from trainer.run_report import Measurement, RunReport

_NUM_CHIPS = 6
"""Classes that are named below a picture."""

_WEAK_IOU = 0.5
"""Below it, more pixels are taken for a class wrongly, or missed, than are right."""


def as_page(report: RunReport, data_licence: str | None = None) -> str:
    """The page; the same report gives the same text.

    Args:
      report: What is to be said.
      data_licence: Of the records; None where it is not known.
    """
    sections = {"Curves": _curves(report)}
    if report.measurement is None:
        sections["Classes"] = _NOT_MEASURED
    else:
        palette = report.info.palette
        sections |= {
            "Classes": _classes(report, report.measurement),
            "Confusion": _confusion(report.measurement, palette),
        }
        for name, template, examples in (
            ("Best", _BEST, report.measurement.best),
            ("Worst", _WORST, report.measurement.worst),
        ):
            if examples:  # There are no worst where there is one picture, or all are void.
                figures = "".join(_figure(example, palette) for example in examples)
                sections[name] = template.format(figures=figures, where=_where(report))
    sections["Model card"] = _model_card(report, data_licence)
    content = [_overview(report, list(sections))]
    content += [f'<section id="{_anchor(name)}">\n{s}\n</section>' for name, s in sections.items()]
    return page.document(
        f"{report.name}: a network for segmentation", "\n".join(content), charts.STYLE + _STYLE
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _overview(report: RunReport, sections: Sequence[str]) -> str:
    cards = "".join(
        f"<li><b>{value}</b> <span>{meaning}</span></li>" for _, value, meaning in _figures(report)
    )
    training = report.info.split(report.config.train_split).num_records
    measured = _MEASURED_ON_OTHERS if report.other_records else _MEASURED_ON_OWN
    return _OVERVIEW.format(
        name=page.text(report.name),
        num_classes=report.info.palette.num_classes,
        training=f"{training:,}",
        steps=f"{_trained(report):,}",
        measured=measured.format(
            pictures=f"{report.measured_split.num_records:,}", where=_where(report)
        ),
        cards=cards,
        links="".join(f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name in sections),
    )


def _where(report: RunReport) -> str:
    """What the measured pictures are of."""
    if other := report.other_records:
        return f"the other records &ldquo;{page.text(other.name)}&rdquo;"
    return "validation"


def _figures(report: RunReport) -> list[tuple[str, str, str]]:
    """Name, value and meaning of what says how good the run is."""
    measured, point = report.measurement, report.best_point
    if measured is not None:
        mean_iou = metrics.mean_iou(measured.matrix)
        accuracy, step = metrics.pixel_accuracy(measured.matrix), measured.step
    elif point is not None:
        accuracies = {p.step: p.value for p in report.validation["pixel_accuracy"]}
        mean_iou, accuracy, step = point.value, accuracies[point.step], point.step
    else:
        return []
    return [
        ("mIoU", f"{mean_iou:.3f}", "mIoU: of what is one class or was taken for it, the share "
         "that is both, averaged over the classes"),
        ("pixel accuracy", f"{accuracy:.1%}", "of the pixels got the right class"),
        ("best step", f"{step:,}", "is the step with the highest mIoU on validation, measured "
         "here"),
    ]  # fmt: skip


def _curves(report: RunReport) -> str:
    training, validation = report.training, report.validation
    charted = [
        charts.chart(title, lines, highest)
        for title, names, source, highest in (
            ("Validation", {"mean_iou": "mIoU", "pixel_accuracy": "accuracy"}, validation, 1.0),
            ("Training loss", {"loss": "loss"}, training, None),
            ("Learning rate", _RATES, training, None),
        )
        if (lines := [Line(names[name], source[name]) for name in names if name in source])
    ]
    if not charted:
        return _NO_CURVES
    # A class that is in no picture has an IoU only while it is taken for another.
    last_step = max((p.step for points in validation.values() for p in points), default=0)
    colors = report.info.palette.class_colors
    small = [
        charts.small_chart(Line(name, points), colors[k])
        for k, name in enumerate(report.info.palette.class_names)
        if (points := validation.get(f"iou/{name}")) and points[-1].step == last_step
    ]
    return _CURVES.format(charts="".join(charted), small="".join(small))


_RATES = {
    "learning_rate": "all",
    "learning_rate/backbone": "backbone",
    "learning_rate/heads": "heads",
}


def _classes(report: RunReport, measured: Measurement) -> str:
    palette = report.info.palette
    matrix, colors = measured.matrix, palette.class_colors
    iou, accuracy = metrics.iou_per_class(matrix), metrics.accuracy_per_class(matrix)
    truth = matrix.sum(axis=1)
    rows = []
    for k in np.argsort(-iou, kind="stable"):  # NaN comes last
        bar = (
            "<td>in neither truth nor prediction</td>"
            if np.isnan(iou[k])
            else page.bar_cell(iou[k], colors[k], f"{iou[k]:.3f}")
        )
        found = "-" if np.isnan(accuracy[k]) else f"{accuracy[k]:.1%}"
        rows.append(
            f"<tr><th scope=row>{page.swatch(colors[k])}{page.text(palette.class_names[k])}</th>"
            f"{bar}<td>{found}</td><td>{share(truth[k], truth.sum())}</td></tr>"
        )
    return _CLASSES.format(
        rows="".join(rows), pictures=f"{measured.num_pictures:,}", where=_where(report)
    )


def _confusion(measured: Measurement, palette: Palette) -> str:
    matrix, names = measured.matrix, palette.class_names
    seen = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
    heads = "".join(f"<th scope=col><span>{page.text(names[k])}</span></th>" for k in seen)
    rows = []
    for k in seen:
        cells = [
            _confusion_cell(matrix[k, other], matrix[k].sum(), names[k], names[other])
            for other in seen
        ]
        title = f"{page.swatch(palette.class_colors[k])}{page.text(names[k])}"
        rows.append(f"<tr><th scope=row>{title}</th>{''.join(cells)}</tr>")
    return _CONFUSION.format(heads=heads, rows="".join(rows))


def _confusion_cell(pixels: int, whole: int, truth: str, prediction: str) -> str:
    part = pixels / max(whole, 1)
    style = f' style="background:rgba(31,95,191,{part:.2f})"' if part >= 0.005 else ""
    strong = ' class="strong"' if part > 0.55 else ""
    title = page.text(f"{truth} taken for {prediction}: {pixels:,} pixels, {part:.2%}")
    return f'<td{style}{strong} title="{title}">{f"{part:.0%}" if part >= 0.005 else ""}</td>'


def _figure(example: Example, palette: Palette) -> str:
    photo = shrink(example.photo, cv2.INTER_AREA)
    truth, prediction = (
        shrink(labels, cv2.INTER_NEAREST) for labels in (example.truth, example.shown_prediction)
    )
    wrong = pictures.mistakes(photo, truth, prediction)
    shares = np.bincount(truth.reshape(-1), minlength=256)[: palette.num_classes] / truth.size
    chips = [
        (palette.class_colors[k], palette.class_names[k])
        for k in np.argsort(-shares, kind="stable")[:_NUM_CHIPS]
        if shares[k]
    ]
    return page.figure(
        example.key,
        f"{example.pixel_accuracy:.1%} of its pixels are right",
        panels=[
            ("Photo", "image/jpeg", encode_rgb(".jpg", photo)),
            ("Truth", "image/png", encode_rgb(".png", palette.colorize(truth))),
            ("Prediction", "image/png", encode_rgb(".png", palette.colorize(prediction))),
            ("Mistakes", "image/jpeg", encode_rgb(".jpg", wrong)),
        ],
        chips=chips,
    )


def _model_card(report: RunReport, data_licence: str | None) -> str:
    config, info = report.config, report.info
    data = [("name", [info.name])]
    data += [
        (
            f"pictures in {name}",
            [f"{split.num_records:,}, up to {split.max_width} x {split.max_height} pixels"],
        )
        for name, split in info.splits.items()
    ]
    data += [
        (name.replace("_", " "), [str(value)])
        for name, value in info.provenance.items()
        if name != "versions" and value is not None
    ]
    if other := report.other_records:
        split = report.measured_split
        size = f"up to {split.max_width} x {split.max_height} pixels"
        data.append(("measured on", [f"{split.num_records:,} pictures of {other.name}, {size}"]))
    figures = [(name, [value]) for name, value, _ in _figures(report)]
    return _MODEL_CARD.format(
        purpose=_purpose(info.palette),
        recipe=page.table(["", ""], _recipe(report), "words"),
        figures=page.table(["", ""], figures, "words") if figures else _NO_FIGURES,
        data=page.table(["", ""], data, "words"),
        licence=page.text(data_licence) if data_licence else _UNKNOWN_LICENCE,
        limits="".join(f"<li>{page.text(limit)}</li>" for limit in _limits(report)),
        values=page.table(
            ["", ""], [(name, [str(value)]) for name, value in leaves(config).items()], "words"
        ),
    )


def _purpose(palette: Palette) -> str:
    names = ", ".join(palette.class_names)
    return page.text(f"To give each pixel of a photo one of these classes: {names}.")


def _trained(report: RunReport) -> int:
    """The last step that was logged."""
    losses = report.training.get("loss")
    return losses[-1].step if losses else 0


def _recipe(report: RunReport) -> list[tuple[str, list[str]]]:
    config = report.config
    model, optimizer = config.model, config.optimizer
    rows = [
        ("network", f"{model.name}, {_backbone(config)}"),
        ("preset", config.preset),
        ("started from", config.initial_model or model.backbone_weights or "random weights"),
        ("trained for", f"{_trained(report):,} of {config.steps:,} steps of {config.batch_size} "
         f"crops of {config.data.crop_size} x {config.data.crop_size} pixels"),
        ("optimizer", f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, weight decay "
         f"{optimizer.weight_decay:g}"),
        ("seed", str(config.seed)),
    ]  # fmt: skip
    logged = [point for points in report.validation.values() for point in points]
    if logged:
        first, last = (choose(logged, key=_wall_time) for choose in (min, max))
        rows.append(("when", f"{_moment(first.wall_time)} to {_moment(last.wall_time)}, UTC"))
    return [(name, [value]) for name, value in rows]


def _backbone(config: Config) -> str:
    model = config.model
    if model.name.startswith("article"):
        return "without a backbone"
    width = "" if model.width_multiplier == 1 else f" at {model.width_multiplier:g} of its width"
    return f"backbone {model.backbone}{width}, output stride {model.output_stride}"


def _wall_time(point: Point) -> float:
    return point.wall_time


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _limits(report: RunReport) -> list[str]:
    info, measured = report.info, report.measurement
    if report.other_records is None:
        limits = [
            "The figures are of the split that chose the best step, which flatters them a little; "
            "no other pictures were looked at.",
            "Nothing was measured on photos of other cameras, places, seasons or sizes than those "
            "of the records.",
        ]
    else:
        limits = [
            f"The figures are of {report.other_records.name}, other records than those that the "
            "network learned from and that chose the best step. Whether pictures are in both was "
            "not looked at: it would flatter the figures."
        ]
    # What a description knows without the lists beside it: sizes, and classes that are missing.
    limits += Findings(info, bad=(), duplicates=()).warnings()
    if measured is not None:
        iou = metrics.iou_per_class(measured.matrix)
        weak = [n for n, value in zip(info.palette.class_names, iou, strict=True)
                if value < _WEAK_IOU]  # fmt: skip
        if weak:
            limits.append(f"Not to be relied on, with an IoU below {_WEAK_IOU}: {', '.join(weak)}.")
    limits += _doubts("The truth", [*info.splits.values()])
    if report.other_records:
        limits += _doubts("The truth of the other records", [report.measured_split])
    limits.append("Not made for decisions on which somebody's safety depends.")
    return limits


def _doubts(truth: str, splits: Sequence[SplitInfo]) -> list[str]:
    unsure = sum(split.unsure_pixels for split in splits)
    if not unsure:
        return []
    part = share(unsure, sum(split.num_pixels for split in splits))
    return [f"{truth} was read back from masks, and {part} of its pixels are of unsure class."]


_STYLE = """
nav ul { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0; }
a { color: var(--accent); }
.confusion { font-size: 13px; }
.confusion th, .confusion td { padding: 4px 5px; border: 1px solid var(--line); }
.confusion td { min-width: 40px; text-align: center; }
.confusion th:first-child { white-space: nowrap; text-align: left; }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }
.confusion .strong { color: #fff; }
.confusion tbody th { position: sticky; left: 0; background: var(--paper); }
.results .share { width: 55%; }
.limits { list-style: disc; padding-left: 22px; max-width: 76ch; }
.limits li { margin: 6px 0; }
h3 { font-size: 17px; margin: 26px 0 4px; }
summary { cursor: pointer; color: var(--accent); padding: 4px 0; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
@media (max-width: 700px) { .share { min-width: 130px; } }
"""

_OVERVIEW = """<header>
<h1>What the network &ldquo;{name}&rdquo; has learned</h1>
<p class="lead">It says of every pixel of a photo which of {num_classes} classes it shows. It
learned that from {training} photos with a label map each, in {steps} steps, and was measured on
{measured}</p>
<ul class="cards">{cards}</ul>
<nav aria-label="Parts of this page"><ul>{links}</ul></nav>
</header>"""

_MEASURED_ON_OWN = "{pictures} others, which it never learned from."

_MEASURED_ON_OTHERS = "{pictures} pictures of {where}, not on its own validation."

_CURVES = """<h2>How it learned</h2>
<p>The loss is what training lowers, on the pictures it learns from; what counts is how good it
gets on the others. Where the loss still falls but mIoU does not rise any more, more steps would be
in vain.</p>
<div class="charts">{charts}</div>
<p>IoU of each class on validation, from 0 to 1, over the same steps, and its last value.</p>
<div class="charts small">{small}</div>"""

_NO_CURVES = """<h2>How it learned</h2>
<p>Nothing was logged: the run was not trained yet, or its weights come from elsewhere.</p>"""

_NOT_MEASURED = """<h2>Where it is right and wrong</h2>
<p>The records that the run was trained on are not at hand. With <code>--data_dir=RECORDS</code>
this page also shows the IoU of every class, which classes are taken for which, and the best and
worst pictures.</p>"""

_CLASSES = """<h2>Classes</h2>
<p>Over the {pictures} pictures of {where}. IoU is the number of pixels that are of a class and
were given it, divided by the number that are of it or were given it: 1 is perfect. Found is the
share of the class's own pixels that were given it; the last column is the class's share of all
pixels.</p>
<div class="scroll"><table class="classes results">
<thead><tr><th scope=col>Class</th><th scope=col>IoU</th><th scope=col>found</th>
<th scope=col>pixels</th></tr></thead>
<tbody>{rows}</tbody>
</table></div>"""

_CONFUSION = """<h2>What is taken for what</h2>
<p>A row is what is there, a column what it was taken for; the cells of a row add up to 100% but for
rounding. Classes that are nowhere are left out.</p>
<div class="scroll"><table class="confusion">
<thead><tr><th></th>{heads}</tr></thead>
<tbody>{rows}</tbody>
</table></div>"""

_BEST = """<h2>The best pictures</h2>
<p>The pictures of {where} with the largest share of right pixels. Black pixels of the truth
belong to no class and do not count.</p>
{figures}"""

_WORST = """<h2>The worst pictures</h2>
<p>Those with the smallest share. Look whether the network is wrong here, or the truth.</p>
{figures}"""

_MODEL_CARD = """<h2>Model card</h2>
<p>{purpose}</p>
<h3>Figures</h3>
{figures}
<h3>Recipe</h3>
{recipe}
<details><summary>Every value of the configuration</summary>{values}</details>
<h3>Data</h3>
{data}
<h3>Licence of the data</h3>
<p>{licence}</p>
<h3>Limits</h3>
<ul class="limits">{limits}</ul>"""

_NO_FIGURES = "<p>Not measured yet.</p>"

_UNKNOWN_LICENCE = """Not known: the records do not say it. Find it out before this network or its
pictures are passed on, and state it here with <code>--data_licence=TEXT</code>."""
