"""What a records folder says of itself, for people, as text; `report_page` says it as a page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline import dataset_info
from pipeline.dataset_info import (
    BAD_PAIRS_FILE,
    DUPLICATES_FILE,
    BadPairEntry,
    DatasetInfo,
    DuplicateEntry,
    SplitInfo,
)

_NUM_LISTED = 10
"""Bad pairs and duplicates that are listed in the text; the files hold all."""

_NAME_WIDTH, _CELL_WIDTH = 28, 12


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that is known of a records folder.

    Attributes:
      info: Its description.
      bad: The pairs that were left out.
      duplicates: The pairs whose file equals another's.
    """

    info: DatasetInfo
    bad: Sequence[BadPairEntry]
    duplicates: Sequence[DuplicateEntry]

    def kinds_of_fault(self) -> list[tuple[str, int]]:
        """Kinds of bad pairs with their numbers, the most frequent first."""
        counts = Counter(entry.error for entry in self.bad)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def warnings(self) -> list[str]:
        """What somebody should look at before training, a sentence each."""
        return [
            *self._leakage_warnings(),
            *self._bad_warnings(),
            *self._size_warnings(),
            *self._class_warnings(),
        ]

    def _leakage_warnings(self) -> Iterable[str]:
        leaked = [entry for entry in self.duplicates if entry.leaks]
        if dropped := sum(entry.dropped for entry in leaked):
            yield (
                f"{_number(dropped, 'training pair')} left out, as another split holds the same "
                "file: scores on pictures seen in training say nothing."
            )
        if kept := sum(not entry.dropped for entry in leaked):
            yield (
                f"{_number(kept, 'training pair')} kept though another split holds the same file "
                "(--leakage=keep): scores on that split will be too good."
            )
        if others := len(self.duplicates) - len(leaked):
            yield (
                f"{_number(others, 'pair')} kept though equal to another, byte for byte: such a "
                "picture counts more than once."
            )

    def _bad_warnings(self) -> Iterable[str]:
        if self.bad:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds_of_fault())
            yield f"{_number(len(self.bad), 'file')} left out as no usable pair ({kinds})."

    def _size_warnings(self) -> Iterable[str]:
        for name, split in self.info.splits.items():
            if len(split.sizes) > 1:
                yield (
                    f"The photos of {name} have {len(split.sizes):,} sizes, up to "
                    f"{split.max_width}x{split.max_height}; evaluation pads all to that."
                )

    def _class_warnings(self) -> Iterable[str]:
        names = self.info.palette.class_names
        training = self.info.training_splits
        learned = [any(split.class_pixels[k] for split in training) for k in range(len(names))]
        seen = [
            any(split.class_pixels[k] for split in self.info.splits.values())
            for k in range(len(names))
        ]
        unlearnable = [name for name, a, b in zip(names, seen, learned, strict=True) if a and not b]
        if unlearnable:
            yield (
                "No training pixel shows what another split asks for: "
                f"{', '.join(map(shown, unlearnable))}."
            )
        if absent := [name for name, a in zip(names, seen, strict=True) if not a]:
            yield f"In no picture at all: {', '.join(map(shown, absent))}."


def _number(count: int, what: str) -> str:
    return f"{count:,} {what} is" if count == 1 else f"{count:,} {what}s are"


def load_findings(data_dir: str) -> Findings:
    """Reads what a records folder says of itself.

    Raises:
      DatasetError: Where it is not whole.
    """
    return Findings(
        dataset_info.load_info(data_dir),
        dataset_info.load_bad_pairs(data_dir),
        dataset_info.load_duplicates(data_dir),
    )


def shown(text: str) -> str:
    """A name from outside, without what could move a terminal's cursor or turn a line around."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def share(part: int, whole: int) -> str:
    """A part as a percentage; a trace is not called nothing."""
    if not part:
        return "0%"
    return f"{part / whole:.3%}" if part / whole >= 0.00001 else "<0.001%"


def split_rows(info: DatasetInfo) -> list[tuple[str, list[str]]]:
    """The counts of each split: a row's title and its cell for each split."""
    splits = list(info.splits.values())

    def counts(values: Iterable[int]) -> list[str]:
        return [f"{value:,}" for value in values]

    def megabytes(split: SplitInfo) -> str:
        return f"{sum(shard.num_bytes for shard in split.shards) / 1e6:,.1f}"

    return [
        ("pairs read", counts(s.num_pairs for s in splits)),
        ("written", counts(s.num_records for s in splits)),
        ("bad", counts(s.num_bad_pairs for s in splits)),
        ("dropped, in another split", counts(s.num_dropped_pairs for s in splits)),
        ("kept, though duplicates", counts(s.num_duplicates - s.num_dropped_pairs for s in splits)),
        ("shards", counts(len(s.shards) for s in splits)),
        ("megabytes", [megabytes(s) for s in splits]),
        ("pixels of unsure class", [share(s.unsure_pixels, s.num_pixels) for s in splits]),
        ("pixels of unknown colour", [share(s.unknown_pixels, s.num_pixels) for s in splits]),
    ]


def count_rows(splits: Sequence[SplitInfo], field: str, limit: int) -> list[tuple[str, list[str]]]:
    """The most frequent ``sizes`` or ``codings`` over all splits, and a row for the others."""
    counts: list[dict[str, int]] = [getattr(split, field) for split in splits]
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    names = sorted(total, key=lambda name: (-total[name], name))
    rows = [(name, [f"{part.get(name, 0):,}" for part in counts]) for name in names[:limit]]
    if len(names) > limit:
        others = [sum(part.get(name, 0) for name in names[limit:]) for part in counts]
        rows.append((f"{len(names) - limit:,} others", [f"{count:,}" for count in others]))
    return rows


def as_text(findings: Findings) -> str:
    """The findings as tables and lists for a terminal."""
    info = findings.info
    splits = list(info.splits.values())
    lines = [
        _line("", list(info.splits)),
        *(_line(title, cells) for title, cells in split_rows(info)),
        "photos of",
        *(_line(f"  {title}", cells) for title, cells in count_rows(splits, "sizes", 5)),
        "files of",
        *(_line(f"  {title}", cells) for title, cells in count_rows(splits, "codings", 5)),
        *_class_lines(info),
    ]
    if warnings := findings.warnings():
        lines += ["to look at", *(f"  {warning}" for warning in warnings)]
    lines += _listed(
        "bad pairs",
        BAD_PAIRS_FILE,
        [f"{e.split}/{e.key}: {e.error}: {e.reason}" for e in findings.bad],
    )
    lines += _listed(
        "duplicates",
        DUPLICATES_FILE,
        [
            f"{e.split}/{e.key} is {e.duplicate_of}{' (dropped)' if e.dropped else ''}"
            for e in findings.duplicates
        ],
    )
    return "\n".join(lines)


def _line(title: str, cells: Sequence[str]) -> str:
    return f"{title:<{_NAME_WIDTH}}" + "".join(f"{cell:>{_CELL_WIDTH}}" for cell in cells)


def _class_lines(info: DatasetInfo) -> list[str]:
    """Each class: its share of each split's pixels, the pictures it is in, its weight."""
    splits = list(info.splits.values())
    groups = [text.rjust(_CELL_WIDTH * len(splits)) for text in ("share of pixels", "pictures")]
    lines = [
        _line("", groups),
        _line("classes", [*info.splits, *info.splits, "weight"]),
    ]
    for k, (name, weight) in enumerate(
        zip(info.palette.class_names, info.class_weights(), strict=True)
    ):
        shares = [share(s.class_pixels[k], s.num_pixels) for s in splits]
        pictures = [f"{s.class_records[k]:,}" for s in splits]
        lines.append(_line(f"  {shown(name)}", [*shares, *pictures, f"{weight:.2f}"]))
    ignored = [share(s.ignored_pixels, s.num_pixels) for s in splits]
    return [*lines, _line("  (ignored)", ignored)]


def _listed(title: str, file: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    lines = [f"{title}, {len(entries):,}", *(f"  {shown(e)}" for e in entries[:_NUM_LISTED])]
    if len(entries) > _NUM_LISTED:
        lines.append(f"  ... all of them are in {file}")
    return lines
