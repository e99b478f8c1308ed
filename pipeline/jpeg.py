"""What a JPEG's header says of its damage, and its luma and chroma as they were stored."""

from __future__ import annotations

import dataclasses
import functools
import io

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin

from pipeline.pairs import TruncatedImage

_SUBSAMPLINGS = {
    (1, 1): "4:4:4",
    (2, 1): "4:4:0",
    (1, 2): "4:2:2",
    (2, 2): "4:2:0",
    (1, 4): "4:1:1",
}


@dataclasses.dataclass(frozen=True)
class Coding:
    """How a colour JPEG was coded.

    Attributes:
      luma_steps: Quantisation steps of the luma's 8x8 DCT coefficients, int32 [8, 8], row by row
        from the lowest frequency.
      chroma_steps: The same of the chroma, int32 [8, 8].
      factors: Rows and columns of luma to one of chroma.
    """

    luma_steps: np.ndarray
    chroma_steps: np.ndarray
    factors: tuple[int, int]

    @property
    def subsampling(self) -> str:
        """The usual name of the chroma's resolution, such as 4:2:0."""
        return _SUBSAMPLINGS.get(self.factors, "other")

    @property
    def quality(self) -> int:
        """The quality, 1 to 100, whose luma steps in libjpeg are nearest to these."""
        return _nearest_quality(self.luma_steps.tobytes())


# ITU-T T.81, table K.1, which libjpeg scales by the quality.
_STANDARD_LUMA_STEPS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


@functools.lru_cache(maxsize=256)  # a data set has few tables, and this takes as long as decoding
def _nearest_quality(luma_steps: bytes) -> int:
    steps = np.frombuffer(luma_steps, np.int32).reshape(8, 8)
    scales = np.array([5000 / q if q < 50 else 200 - 2 * q for q in range(1, 101)])
    tables = np.clip((_STANDARD_LUMA_STEPS * scales[:, None, None] + 50) // 100, 1, 255)
    return int(np.abs(tables - steps).sum(axis=(1, 2)).argmin()) + 1


def read_coding(header: Image.Image) -> Coding | None:
    """How an image was coded, by its header alone.

    None where it is no JPEG of YCbCr, or its two planes of chroma are not coded alike, each at a
    whole part of the luma's resolution.

    Args:
      header: The image as Pillow opens it; its pixels are not looked at.
    """
    if not isinstance(header, JpegImagePlugin.JpegImageFile) or header.mode != "RGB":
        return None
    if header.info.get("adobe_transform") == 0:  # stored as RGB
        return None
    luma, blue, red = (layer[1:] for layer in header.layer)
    (luma_h, luma_v, luma_table), (chroma_h, chroma_v, chroma_table) = luma, blue
    tables = header.quantization
    known = luma_table in tables and chroma_table in tables
    if blue != red or luma_h % chroma_h or luma_v % chroma_v or not known:
        return None
    steps = [
        np.array(tables[table], np.int32).reshape(8, 8) for table in (luma_table, chroma_table)
    ]
    return Coding(steps[0], steps[1], (luma_v // chroma_v, luma_h // chroma_h))


@dataclasses.dataclass(frozen=True)
class Planes:
    """A JPEG's luma and chroma, not yet turned into colours.

    Attributes:
      luma: uint8 [H, W].
      blue: uint8, blue-difference chroma (Cb) at its own resolution, rounded up.
      red: uint8, the same of red (Cr).
      coding: How they were coded.
    """

    luma: np.ndarray
    blue: np.ndarray
    red: np.ndarray
    coding: Coding

    def upsampled(self) -> np.ndarray:
        """All at the luma's resolution, uint8 [H, W, 3]; a sample of chroma fills its cell."""
        height, width = self.luma.shape
        down, across = self.coding.factors
        chroma = np.stack([self.blue, self.red], axis=-1)
        if self.coding.factors != (1, 1):
            size = (chroma.shape[1] * across, chroma.shape[0] * down)
            chroma = cv2.resize(chroma, size, interpolation=cv2.INTER_NEAREST)
        return np.concatenate([self.luma[..., None], chroma[:height, :width]], axis=-1)


def to_luma_and_chroma(colors: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] RGB -> float64 [..., 3] Y, Cb and Cr, not rounded (JFIF 1.02)."""
    matrix = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    return colors @ np.transpose(matrix) + (0, 128, 128)


def decode_planes(data: bytes, coding: Coding) -> Planes:
    """Decodes a JPEG that is known to be one, and of good size.

    Chroma of 4:2:0 is exactly what is stored: a decoder that halves the picture halves the luma
    alone. Of other subsamplings it is the mean of what the decoder smoothly enlarged.

    Args:
      data: The file's bytes.
      coding: What `read_coding` says of them.

    Raises:
      TruncatedImage: Where the pixels are not all there.
    """
    full = _decode(data, 1)
    height, width, _ = full.shape
    down, across = coding.factors
    size = (-(-height // down), -(-width // across))
    chroma = full
    if coding.factors == (2, 2):
        chroma = _decode(data, 2)
    elif coding.factors != (1, 1):
        padding = ((0, size[0] * down - height), (0, size[1] * across - width), (0, 0))
        cells = np.pad(full, padding, mode="edge").reshape(size[0], down, size[1], across, 3)
        chroma = np.rint(cells.mean(axis=(1, 3))).astype(np.uint8)
    return Planes(full[..., 0], chroma[..., 1], chroma[..., 2], coding)


def _decode(data: bytes, reduction: int) -> np.ndarray:
    """Luma and chroma, uint8 [H / reduction, W / reduction, 3], rounded up."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        width, height = image.size
        image.draft("YCbCr", (max(width // reduction, 1), max(height // reduction, 1)))
        try:
            image.load()
        except OSError as error:  # of what OpenCV lets pass, such as a damaged end marker
            raise TruncatedImage(f"the {width}x{height} image is broken: {error}") from error
        return np.asarray(image)
