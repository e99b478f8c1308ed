"""The class table as data: names, colours and train ids, and how to colour labels with them."""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError

PALETTE_FILE = "palette.json"
"""Where a palette lies in what was made with it."""

IGNORE_LABEL = 255
"""Train id of every pixel that belongs to no evaluated class (void)."""

Color = tuple[int, int, int]


class PaletteError(UserError):
    """A palette that cannot be used: unreadable, or inconsistent in itself."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One colour of a palette.

    Attributes:
      name: The class's name, e.g. ``traffic sign``.
      color: Its colour in masks, RGB, 0 to 255 each.
      train_id: Its class, 0 to K-1, or 255 where it is not evaluated.
    """

    name: str
    color: Color
    train_id: int


@dataclasses.dataclass(frozen=True)
class Palette:
    """The colours that occur in masks and the classes they stand for.

    Several colours may share a train id; the first of them is the colour that the class is
    drawn in. Colours are distinct and train ids are 0 to K-1 without a gap.

    Raises:
      PaletteError: Where these rules do not hold.
    """

    name: str
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise PaletteError(f"Palette {self.name!r} has no colours.")
        names_by_color: dict[Color, str] = {}
        for entry in self.entries:
            if any(not 0 <= level <= 255 for level in entry.color):
                raise PaletteError(
                    f"Palette {self.name!r}: a colour is three levels of 0 to 255. "
                    f"Received: {entry.color} for {entry.name!r}."
                )
            if entry.color in names_by_color:
                raise PaletteError(
                    f"Palette {self.name!r}: {names_by_color[entry.color]!r} and {entry.name!r} "
                    f"have the same colour {entry.color}; masks could not tell them apart."
                )
            names_by_color[entry.color] = entry.name
        self._check_train_ids()

    def _check_train_ids(self) -> None:
        train_ids = sorted({e.train_id for e in self.entries} - {IGNORE_LABEL})
        if not train_ids or train_ids != list(range(len(train_ids))) or train_ids[-1] > 253:
            raise PaletteError(
                f"Palette {self.name!r}: train ids must be 0 to K-1 without a gap, at most 254 "
                f"classes, and {IGNORE_LABEL} for void. Received: {train_ids}."
            )
        for name, count in collections.Counter(self.class_names).items():
            if count > 1:
                raise PaletteError(
                    f"Palette {self.name!r}: {count} classes are called {name!r}; a table of "
                    "results could not tell them apart."
                )

    @property
    def num_classes(self) -> int:
        return len({e.train_id for e in self.entries} - {IGNORE_LABEL})

    @functools.cached_property
    def _class_entries(self) -> list[Entry]:
        first: dict[int, Entry] = {}
        for entry in self.entries:
            first.setdefault(entry.train_id, entry)
        return [first[train_id] for train_id in range(self.num_classes)]

    @property
    def class_names(self) -> list[str]:
        """Names by train id."""
        return [e.name for e in self._class_entries]

    @property
    def class_colors(self) -> np.ndarray:
        """Colours by train id: uint8 [K, 3]."""
        return np.array([e.color for e in self._class_entries], np.uint8)

    @property
    def colors(self) -> np.ndarray:
        """Every colour that occurs in masks: uint8 [N, 3], in the order of `entries`."""
        return np.array([e.color for e in self.entries], np.uint8)

    @property
    def train_ids(self) -> np.ndarray:
        """The train id of each row of `colors`: uint8 [N]."""
        return np.array([e.train_id for e in self.entries], np.uint8)

    @functools.cached_property
    def _color_table(self) -> np.ndarray:
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.class_colors
        return table

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Colours train ids.

        Args:
          labels: Integer [...] of train ids; void and unknown ids become black.

        Returns:
          uint8 [..., 3], RGB.
        """
        return self._color_table[labels]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "classes": [
                {"name": e.name, "color": list(e.color), "train_id": e.train_id}
                for e in self.entries
            ],
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Palette:
        """The reverse of `to_dict`.

        Raises:
          PaletteError: Where a field is missing or of the wrong form.
        """
        try:
            entries = tuple(
                Entry(str(c["name"]), _color(c["color"]), int(c["train_id"]))
                for c in value["classes"]
            )
            name = str(value["name"])
        except (KeyError, TypeError, ValueError) as error:
            raise PaletteError(
                "A palette is {'name': ..., 'classes': [{'name': 'road', 'color': [128, 64, 128], "
                f"'train_id': 0}}, ...]}}. Received one that lacks this: {error!r}."
            ) from error
        return cls(name, entries)


def _color(levels: Sequence[Any]) -> Color:
    red, green, blue = (int(level) for level in levels)
    return red, green, blue


def parse_palette(text: str, name: str) -> Palette:
    """Reads a palette of one's own.

    Args:
      text: JSON as `Palette.to_dict` gives it, or CSV with the header
        ``name,red,green,blue,train_id``; train_id 255 (or empty) is void.
      name: The file's name; its ending tells the two forms apart.

    Raises:
      PaletteError: Where the text is neither, or inconsistent.
    """
    if name.lower().endswith(".json"):
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise PaletteError(f"Palette {name!r} is not JSON: {error}.") from error
        if not isinstance(value, dict):
            raise PaletteError(f"Palette {name!r} must hold a JSON object.")
        return Palette.from_dict({"name": name, **value})
    if not name.lower().endswith(".csv"):
        raise PaletteError(f"A palette is a .json or a .csv file. Received: {name!r}.")
    entries = []
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    for row in reader:
        try:
            color = _color((row["red"], row["green"], row["blue"]))
            train_id = row["train_id"].strip()
            entries.append(Entry(row["name"], color, int(train_id or IGNORE_LABEL)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PaletteError(
                f"Palette {name!r}, line {reader.line_num}: expected the columns "
                f"name,red,green,blue,train_id. Received: {row}."
            ) from error
    return Palette(name, tuple(entries))


def _void(*named_colors: tuple[str, Color]) -> tuple[Entry, ...]:
    return tuple(Entry(name, color, IGNORE_LABEL) for name, color in named_colors)


CITYSCAPES = Palette(
    "cityscapes",
    (
        Entry("road", (128, 64, 128), 0),
        Entry("sidewalk", (244, 35, 232), 1),
        Entry("building", (70, 70, 70), 2),
        Entry("wall", (102, 102, 156), 3),
        Entry("fence", (190, 153, 153), 4),
        Entry("pole", (153, 153, 153), 5),
        Entry("traffic light", (250, 170, 30), 6),
        Entry("traffic sign", (220, 220, 0), 7),
        Entry("vegetation", (107, 142, 35), 8),
        Entry("terrain", (152, 251, 152), 9),
        Entry("sky", (70, 130, 180), 10),
        Entry("person", (220, 20, 60), 11),
        Entry("rider", (255, 0, 0), 12),
        Entry("car", (0, 0, 142), 13),
        Entry("truck", (0, 0, 70), 14),
        Entry("bus", (0, 60, 100), 15),
        Entry("train", (0, 80, 100), 16),
        Entry("motorcycle", (0, 0, 230), 17),
        Entry("bicycle", (119, 11, 32), 18),
        *_void(
            ("unlabeled", (0, 0, 0)),
            ("dynamic", (111, 74, 0)),
            ("ground", (81, 0, 81)),
            ("parking", (250, 170, 160)),
            ("rail track", (230, 150, 140)),
            ("guard rail", (180, 165, 180)),
            ("bridge", (150, 100, 100)),
            ("tunnel", (150, 120, 90)),
            ("caravan", (0, 0, 90)),
            ("trailer", (0, 0, 110)),
        ),
    ),
)
"""Cityscapes (Cordts et al. 2016): its label table's 29 distinct colours and 19 train ids.

Labels that share a colour with another (ego vehicle and static with unlabeled, polegroup with
pole, license plate with car) cannot be told apart in a mask and are left out.
"""
