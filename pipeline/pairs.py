"""Side-by-side pairs: find them, decode them safely, split them; what a bad pair is."""

from __future__ import annotations

import collections
import dataclasses
import io
import posixpath
import re
from collections.abc import Collection, Iterable

import cv2
import numpy as np
from PIL import Image

from pipeline.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_FILE_BYTES = 2**28
MAX_PIXELS = 2**26
"""8192 x 8192: far above any street photo, far below what fills a worker's memory."""

MAX_SIDE = 65_500
"""Pixels of width or height. libjpeg writes no more, and libpng a million: two side by side fit."""

MAX_PREDICTED_PIXELS = 2**24
"""4096 x 4096: above what cameras of streets give; a network needs some 10 GB to see as much."""

SIDES = ("left", "right")

PAIR_MODES = ("RGB", "P")
PHOTO_MODES = ("RGB", "P", "L")
"""Pillow's names of the pixel formats that a photo to be labelled may have."""


class InputError(UserError):
    """An input folder that holds no usable splits."""


class BadPair(Exception):
    """A file that is no usable pair. The class names the kind of fault, the text is the reason."""


class FileTooLarge(BadPair):
    """More than `MAX_FILE_BYTES`."""


class NotAnImage(BadPair):
    """Neither JPEG nor PNG, whatever its name says."""


class ImageTooLarge(BadPair):
    """More than `MAX_PIXELS`, or a side above `MAX_SIDE`, by its header; never decoded."""


class UnsupportedMode(BadPair):
    """Not three channels of colour, e.g. with transparency, CMYK or greyscale."""


class OddWidth(BadPair):
    """Cannot be cut into two halves of one size."""


class TruncatedImage(BadPair):
    """A good header, but the pixels are cut short or broken."""


@dataclasses.dataclass(frozen=True, order=True)
class FoundPair:
    """A file that by its name and place should be a pair.

    Attributes:
      split: The name of its folder.
      key: Its file name, unique within the split.
      path: Where it is.
      num_bytes: The file's size.
      duplicate_of: ``SPLIT/KEY`` of the pair whose file has the same bytes; empty where there is
        none, or this one is the first of them.
    """

    split: str
    key: str
    path: str
    num_bytes: int
    duplicate_of: str = ""


def find_splits(paths: Iterable[str], input_dir: str) -> tuple[dict[str, str], int]:
    """Which folders are splits: the shallowest ones that hold images.

    Kaggle's archive nests a second copy of the data (``cityscapes_data/cityscapes_data/train``);
    only the upper one counts.

    Args:
      paths: Every file below `input_dir`, with forward slashes.
      input_dir: The folder that was searched.

    Returns:
      The folder of each split by its name, and how many images lie elsewhere and are left out.

    Raises:
      InputError: Where there are none, or all images lie in `input_dir` itself.
    """
    root = input_dir.rstrip("/")
    images = (path for path in paths if is_image_name(path))
    images_per_folder = collections.Counter(posixpath.dirname(path) for path in images)
    if not images_per_folder:
        raise InputError(
            f"No pairs in {input_dir!r}: expected a folder per split, such as train/ and val/, "
            f"with {', '.join(IMAGE_SUFFIXES)} files."
        )
    stray = images_per_folder.pop(root, 0) if len(images_per_folder) > 1 else 0
    depth = min(folder.count("/") for folder in images_per_folder)
    folders = sorted(f for f in images_per_folder if f.count("/") == depth)
    if folders == [root]:
        raise InputError(
            f"The images lie directly in {input_dir!r}: put each split's into a folder of its "
            "own, such as train/ and val/."
        )
    parents = {posixpath.dirname(folder) for folder in folders}
    if len(parents) > 1:
        raise InputError(
            f"{input_dir!r} holds several data sets: name one of {', '.join(sorted(parents))}."
        )
    splits = {posixpath.basename(folder): folder for folder in folders}
    for split in splits:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", split):
            raise InputError(
                f"The folder {splits[split]!r} cannot name a split: use letters, digits and _ only."
            )
    left_out = stray + sum(images_per_folder.values()) - sum(images_per_folder[f] for f in folders)
    return splits, left_out


def is_image_name(path: str) -> bool:
    """Whether a file is, by its name, an image to be read; macOS's ``._x.jpg`` are none."""
    name = posixpath.basename(path)
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def decode_image(
    data: bytes, modes: Collection[str] = PAIR_MODES, apply_orientation: bool = False
) -> np.ndarray:
    """Decodes a JPEG or PNG of unknown origin; see `read_header` and `decode_pixels`.

    Args:
      data: The file's bytes.
      modes: Pillow's names of the pixel formats that are good; all are decoded to RGB.
      apply_orientation: Turn the image as EXIF says; a pair's halves must stay where they are.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      BadPair: One of its kinds.
    """
    return decode_pixels(data, read_header(data, modes), apply_orientation)


def read_header(data: bytes, modes: Collection[str] = PAIR_MODES) -> Image.Image:
    """Reads the header of a JPEG or PNG of unknown origin, and refuses what must not be decoded.

    Args:
      data: The file's bytes.
      modes: Pillow's names of the pixel formats that are good.

    Returns:
      The image as Pillow sees it, without pixels: closed, so that a decompression bomb is never
      unpacked.

    Raises:
      BadPair: One of its kinds.
    """
    if len(data) > MAX_FILE_BYTES:
        raise FileTooLarge(f"the file has over {MAX_FILE_BYTES >> 20} MiB")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise NotAnImage("not a JPEG or PNG file" if data else "the file is empty") from error
    if width * height > MAX_PIXELS:
        raise ImageTooLarge(f"{width}x{height} pixels; at most {MAX_PIXELS} are decoded")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"{width}x{height} pixels; a side may have {MAX_SIDE} at most")
    transparent = "transparency" in header.info
    if header.mode not in modes or transparent:
        raise UnsupportedMode(
            f"{'transparent' if transparent else 'mode'} {header.mode}; "
            "expected three channels of colour"
        )
    return header


def decode_pixels(data: bytes, header: Image.Image, apply_orientation: bool = False) -> np.ndarray:
    """Decodes an image whose header was found good.

    Args:
      data: The file's bytes.
      header: What `read_header` gave for them.
      apply_orientation: Turn the image as EXIF says.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      TruncatedImage: Where the pixels are not all there.
    """
    width, height = header.size
    orientation = 0 if apply_orientation else cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | orientation)
    if pixels is None or pixels.size != height * width * 3:
        raise TruncatedImage(f"the {width}x{height} image is cut short or broken")
    return pixels


def split_pair(pixels: np.ndarray, image_side: str) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a pair into its halves.

    Args:
      pixels: uint8 [H, 2W, 3].
      image_side: Where the photo is, ``left`` or ``right``.

    Returns:
      Photo and mask, uint8 [H, W, 3] each (views).

    Raises:
      OddWidth: Where the width is odd.
    """
    height, width, _ = pixels.shape
    if width % 2:
        raise OddWidth(f"{width}x{height}; a pair's width must be even to be cut in two")
    left, right = pixels[:, : width // 2], pixels[:, width // 2 :]
    return (left, right) if image_side == "left" else (right, left)
