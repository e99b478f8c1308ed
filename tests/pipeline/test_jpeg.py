"""What is read from a JPEG's header and planes is what the encoder was told and given."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline import jpeg, synthesize

SUBSAMPLINGS = ["4:4:4", "4:4:0", "4:2:2", "4:2:0", "4:1:1"]


def encode(pixels: np.ndarray, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def read_coding(data: bytes) -> jpeg.Coding | None:
    with Image.open(io.BytesIO(data)) as header:
        return jpeg.read_coding(header)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG hardly damages."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 4 % 256, 128 + x, 255 - y - x], -1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 90, 99, 100])
def test_quality_and_subsampling_are_found(quality, subsampling):
    blank = np.zeros((16, 16), np.uint8)
    data = synthesize.encode_pair(np.zeros((16, 16, 3), np.uint8), blank, quality, subsampling)
    coding = read_coding(data)
    assert coding is not None
    assert (coding.quality, coding.subsampling) == (quality, subsampling)


def test_steps_are_row_by_row_from_the_lowest_frequency():
    tables = [list(range(1, 65)), list(range(101, 165))]
    coding = read_coding(encode(smooth(16, 16), qtables=tables))
    assert coding is not None
    np.testing.assert_array_equal(coding.luma_steps.ravel(), tables[0])
    np.testing.assert_array_equal(coding.chroma_steps.ravel(), tables[1])


@pytest.mark.parametrize(
    "data",
    [
        encode(smooth(8, 8), "PNG"),
        encode(smooth(8, 8)[..., 0]),
        encode(smooth(8, 8), keep_rgb=True),
    ],
    ids=["png", "grey", "rgb"],
)
def test_what_has_no_chroma_has_no_such_coding(data):
    assert read_coding(data) is None


@pytest.mark.parametrize(
    "factors", [(0x11, 0x22, 0x22), (0x31, 0x21, 0x21), (0x22, 0x11, 0x21), (0x21, 0x11, 0x12)]
)
def test_chroma_finer_than_luma_or_unlike_is_no_such_coding(factors):
    data = bytearray(encode(smooth(16, 16)))
    start = data.index(b"\xff\xc0") + 10  # of the frame header's three times (id, factors, table)
    data[start + 1 : start + 9 : 3] = factors
    assert read_coding(bytes(data)) is None


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (17, 16), (1, 1), (2, 3)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_planes_are_those_that_were_encoded(size, subsampling):
    pixels = smooth(*size)
    data = encode(pixels, quality=100, subsampling=subsampling)
    coding = read_coding(data)
    assert coding is not None
    planes = jpeg.decode_planes(data, coding)
    down, across = coding.factors
    assert planes.luma.shape == size
    assert planes.blue.shape == planes.red.shape == (-(-size[0] // down), -(-size[1] // across))
    assert planes.upsampled().shape == (*size, 3)
    expected = jpeg.to_luma_and_chroma(pixels)
    assert np.abs(planes.luma - expected[..., 0]).max() < 2
    assert np.abs(planes.upsampled() - expected).max() < 6


def test_chroma_is_the_mean_of_its_cell():
    """Not what a decoder makes of it: that smooths across cells."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = (0, 0, 255)
    data = encode(pixels, quality=100, subsampling="4:2:0")
    coding = read_coding(data)
    assert coding is not None
    blue = jpeg.decode_planes(data, coding).blue
    assert np.abs(blue[:, :4] - 128.0).max() <= 2
    assert blue[:, 4:].min() >= 253


def test_conversion_is_that_of_pillow():
    colors = np.random.default_rng(0).integers(0, 256, (1, 500, 3), np.uint8)
    expected = np.asarray(Image.fromarray(colors).convert("YCbCr"))
    assert np.abs(jpeg.to_luma_and_chroma(colors) - expected).max() < 1.1
