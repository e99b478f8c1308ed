"""What a predictions folder holds: labelled photos, what is in them, and the photos left out.

SUB/PHOTO_ids.png      train ids, 8-bit greyscale, at the photo's own size
SUB/PHOTO_overlay.png  the photo, tinted with its classes' colours; where asked for
palette.json           the classes' names and colours by train id
bad_photos.jsonl       the photos that could not be labelled, each with its reason
manifest.jsonl         `LabelledPhoto`, one a line; written last: without it, not whole
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from pipeline.palette import PALETTE_FILE, Palette

MANIFEST_FILE = "manifest.jsonl"
BAD_PHOTOS_FILE = "bad_photos.jsonl"
IDS_SUFFIX, OVERLAY_SUFFIX = "_ids.png", "_overlay.png"


def is_predictions_file(path: str) -> bool:
    """Whether a file of this path below a predictions folder is a part of it."""
    described = path in (MANIFEST_FILE, BAD_PHOTOS_FILE, PALETTE_FILE)
    return described or path.endswith((IDS_SUFFIX, OVERLAY_SUFFIX))


def output_name(photo: str, suffix: str) -> str:
    """The path of what is written for a photo, below the folder: ``a/b.jpg`` -> ``a/b_ids.png``."""
    return posixpath.splitext(photo)[0] + suffix


@dataclasses.dataclass(frozen=True)
class LabelledPhoto:
    """A photo and its labels.

    Attributes:
      photo: Its path below the folder that was searched.
      ids: Path of the train ids below the predictions folder.
      overlay: Path of the overlay there; None where there is none.
      width: Of both, in pixels.
      height: Of both, in pixels.
      class_shares: Share of the pixels of each class that was found, by the class's name.
    """

    photo: str
    ids: str
    overlay: str | None
    width: int
    height: int
    class_shares: dict[str, float]


@dataclasses.dataclass(frozen=True)
class BadPhotoEntry:
    """A photo that was left out: its path below the searched folder, kind of fault and reason."""

    photo: str
    error: str
    reason: str


_Entry = TypeVar("_Entry", LabelledPhoto, BadPhotoEntry)


@dataclasses.dataclass(frozen=True)
class PartSummary:
    """What came of the photos of one part of a job.

    Attributes:
      labelled: Those that were labelled.
      bad: Those that were not.
      sha256: Of each file that was written, hexadecimal, by its path below the folder.
    """

    labelled: list[LabelledPhoto]
    bad: list[BadPhotoEntry]
    sha256: dict[str, str]

    @property
    def photos(self) -> set[str]:
        return {entry.photo for entry in self.labelled} | {entry.photo for entry in self.bad}

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PartSummary:
        """The reverse of `to_json`.

        Raises:
          ValueError: Where the text is damaged.
        """
        try:
            value = json.loads(text)
            return cls(
                [LabelledPhoto(**entry) for entry in value["labelled"]],
                [BadPhotoEntry(**entry) for entry in value["bad"]],
                value["sha256"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"This is no summary of a part: {error!r}.") from error


def class_shares(labels: np.ndarray, palette: Palette) -> dict[str, float]:
    """Share of the pixels of each class that is there, the largest first.

    Args:
      labels: uint8 [H, W], train ids.
      palette: The classes.
    """
    counts = np.bincount(labels.reshape(-1), minlength=palette.num_classes)
    shares = {
        name: round(int(count) / labels.size, 6)
        for name, count in zip(palette.class_names, counts, strict=True)
        if count
    }
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def encode(entries: Iterable[_Entry]) -> bytes:
    """One line of JSON for each entry, in the order of the photos' paths."""
    in_order = sorted(entries, key=lambda entry: entry.photo)
    return "".join(json.dumps(dataclasses.asdict(entry)) + "\n" for entry in in_order).encode()
