"""Pairs of unknown origin: found, decoded or refused, never fatal."""

import io
import itertools
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import pairs, records, synthesize
from pipeline.pairs import BadPair, InputError

PHOTO, LABELS = synthesize.draw_scene(synthesize.scene_rng(0, "train", 1), 64)
JPEG = synthesize.encode_pair(PHOTO, LABELS)
PIXELS = np.asarray(Image.open(io.BytesIO(JPEG)))


def encode(pixels: np.ndarray, form: str = "PNG", mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, bit_depth: int, color_type: int, *chunks: bytes) -> bytes:
    """A PNG put together by hand."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    parts = [b"IHDR" + header, *chunks, b"IEND"]
    framed = (struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


class TestFindSplits:
    def find(self, *paths: str, root: str = "in"):
        return pairs.find_splits([f"in/{path}" for path in paths], root)

    def test_a_folder_of_images_is_a_split(self):
        splits, left_out = self.find("train/1.jpg", "train/2.JPG", "val/1.png", "val/x.jpeg")
        assert splits == {"train": "in/train", "val": "in/val"}
        assert left_out == 0

    def test_of_a_nested_copy_only_the_upper_one_counts(self):
        paths = [
            "data/train/1.jpg",
            "data/val/1.jpg",
            "data/data/train/1.jpg",
            "data/data/val/1.jpg",
        ]
        splits, left_out = self.find(*paths)
        assert splits == {"train": "in/data/train", "val": "in/data/val"}
        assert left_out == 2

    def test_hidden_files_and_other_files_are_no_images(self):
        splits, left_out = self.find(
            "train/1.jpg", "._x.jpg", ".DS_Store", "read me.txt", "train/._1.jpg", "notes/a.md"
        )
        assert (splits, left_out) == ({"train": "in/train"}, 0)

    @pytest.mark.parametrize("root", ["in", "in/"])
    def test_images_in_the_folder_itself_are_refused(self, root):
        with pytest.raises(InputError, match=r"lie directly in 'in/?': put each split's"):
            self.find("1.jpg", "2.jpg", root=root)

    def test_stray_images_beside_the_splits_are_left_out(self):
        assert self.find("train/1.jpg", "sample.jpg") == ({"train": "in/train"}, 1)

    def test_several_data_sets_are_refused_by_name(self):
        with pytest.raises(InputError, match="several data sets: name one of in/a, in/b"):
            self.find("a/train/1.jpg", "b/train/1.jpg")

    @pytest.mark.parametrize("paths", [[], ["notes.txt"], ["train/.1.jpg"]])
    def test_no_images_are_refused(self, paths):
        with pytest.raises(InputError, match=r"No pairs in 'in': expected a folder per split"):
            self.find(*paths)

    @pytest.mark.parametrize("name", ["my split", "1st", "val-2", "żółw", "a.b", "_x"])
    def test_a_folder_that_cannot_name_a_split_is_refused(self, name):
        with pytest.raises(InputError, match=f"'in/{name}' cannot name a split"):
            self.find(f"{name}/1.jpg")

    @given(
        st.sets(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True), min_size=1),
        st.integers(0, 3),
        st.lists(st.from_regex(r"[a-z]{1,5}/[a-z]{1,5}\.txt", fullmatch=True)),
    )
    def test_splits_are_found_at_any_depth_beside_any_other_files(self, names, depth, others):
        above = "in/" + "x/" * depth
        splits, left_out = pairs.find_splits(
            [*(f"{above}{name}/0.jpg" for name in names), *(f"in/{other}" for other in others)],
            "in",
        )
        assert splits == {name: above + name for name in names}
        assert left_out == 0


def test_a_png_is_decoded_exactly():
    np.testing.assert_array_equal(pairs.decode_image(encode(PIXELS)), PIXELS)


def test_a_png_of_indexed_colours_is_colours():
    few = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    indexed = encode(few, mode="P")
    assert Image.open(io.BytesIO(indexed)).mode == "P"
    np.testing.assert_array_equal(pairs.decode_image(indexed), few)


def test_a_rotation_in_exif_does_not_turn_the_pair():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(PIXELS, "JPEG", exif=exif, quality=95)
    assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 6
    upright = pairs.decode_image(turned)
    assert upright.shape == PIXELS.shape
    as_seen = pairs.decode_image(turned, apply_orientation=True)
    np.testing.assert_array_equal(as_seen, np.rot90(upright, -1))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(JPEG) - 1))
@example(len(JPEG) - 1)
@example(len(JPEG) - 2)
def test_a_jpeg_cut_anywhere_is_bad(cut):
    with pytest.raises((pairs.TruncatedImage, pairs.NotAnImage)) as caught:
        pairs.decode_image(JPEG[:cut])
    scan = JPEG.index(b"\xff\xda")
    if cut > scan + 20:
        assert caught.type is pairs.TruncatedImage
        assert "128x64" in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_png_cut_in_its_pixels_is_bad(data):
    whole = encode(PIXELS)
    cut = data.draw(st.integers(60, len(whole) - 20))
    with pytest.raises(pairs.TruncatedImage):
        pairs.decode_image(whole[:cut])


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", pairs.NotAnImage, "the file is empty"),
        (b"<html>404</html>", pairs.NotAnImage, "not a JPEG or PNG"),
        (encode(PIXELS, "BMP"), pairs.NotAnImage, "not a JPEG or PNG"),
        (encode(PIXELS, "GIF"), pairs.NotAnImage, "not a JPEG or PNG"),
        (encode(PIXELS, mode="RGBA"), pairs.UnsupportedMode, "mode RGBA"),
        (encode(PIXELS, mode="L"), pairs.UnsupportedMode, "mode L"),
        (encode(PIXELS, "JPEG", mode="L"), pairs.UnsupportedMode, "mode L"),
        (encode(PIXELS, "JPEG", mode="CMYK"), pairs.UnsupportedMode, "mode CMYK"),
        (encode(PIXELS, mode="LA"), pairs.UnsupportedMode, "mode LA"),
        (encode(PIXELS, mode="1"), pairs.UnsupportedMode, "mode 1"),
        (encode(PIXELS, mode="P", transparency=0), pairs.UnsupportedMode, "transparent P"),
        (png(50_000, 50_000, 8, 2), pairs.ImageTooLarge, "2500000000 pixels|50000x50000"),
        (png(8193, 8193, 8, 2), pairs.ImageTooLarge, "8193x8193 pixels"),
        (png(600_000, 1, 8, 2), pairs.ImageTooLarge, "600000x1 pixels; a side may have 65500"),
        (png(2, 65_501, 8, 2), pairs.ImageTooLarge, "2x65501 pixels; a side may have 65500"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_what_is_no_pair_is_bad_with_a_reason(data, kind, reason):
    with pytest.raises(kind, match=reason):
        pairs.decode_image(data)


def test_the_largest_picture_is_still_decoded(monkeypatch):
    monkeypatch.setattr(pairs, "MAX_PIXELS", 128 * 64)
    assert pairs.decode_image(JPEG).shape == (64, 128, 3)
    monkeypatch.setattr(pairs, "MAX_PIXELS", 128 * 64 - 1)
    with pytest.raises(pairs.ImageTooLarge):
        pairs.decode_image(JPEG)


def test_the_longest_side_can_still_be_written():
    """By OpenCV: as a record's photo, and as one beside another."""
    longest = np.zeros((pairs.MAX_SIDE, 2, 3), np.uint8)
    photo, _ = pairs.split_pair(pairs.decode_image(encode(longest)), "left")
    assert records.encode_image(".jpg", photo)
    assert records.encode_image(".png", np.zeros((1, 2 * pairs.MAX_SIDE, 3), np.uint8))


def test_an_oversized_file_is_refused_unread():
    with pytest.raises(pairs.FileTooLarge, match="over 256 MiB"):
        pairs.decode_image(bytes(pairs.MAX_FILE_BYTES + 1))


def test_a_decompression_bomb_takes_no_memory(tmp_path):
    """62 KB of valid PNG that decoded would be 1.2 GB."""
    side = 20_000
    rows = zlib.compress((b"\0" + bytes(side // 8)) * side, 9)
    bomb = png(side, side, 1, 3, b"PLTE" + bytes(6), b"IDAT" + rows)
    assert len(bomb) < 100_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    script = """
import resource, sys
from pipeline import pairs
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    pairs.decode_image(data)
except pairs.ImageTooLarge:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "bomb.png")]
    grown_kib = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert grown_kib < 20_000


def decoded_or_bad(data: bytes) -> bool:
    """Whether bytes are a pair; fails where they are neither that nor bad."""
    try:
        pixels = pairs.decode_image(data)
    except BadPair as error:
        assert str(error)
        return False
    with Image.open(io.BytesIO(data)) as header:
        assert pixels.shape == (header.height, header.width, 3)
    assert pixels.dtype == np.uint8
    return True


STARTS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", JPEG[:150], JPEG[:700], encode(PIXELS)[:50]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_random_bytes_are_never_fatal(start, rest):
    decoded_or_bad(start + rest)


@pytest.mark.parametrize("data", [JPEG, encode(PIXELS)], ids=["JPEG", "PNG"])
def test_flipped_bits_are_never_fatal(data):
    rng = np.random.default_rng(0)
    good = []
    for _ in range(1500):
        damaged = bytearray(data)
        # Half of them in the headers, where they do the most harm.
        end = len(data) if rng.random() < 0.5 else 700
        for place in rng.integers(0, end, rng.integers(1, 6)):
            damaged[place] ^= 1 << rng.integers(8)
        good.append(decoded_or_bad(bytes(damaged)))
    assert not all(good)


def test_halves_are_cut_in_the_middle_and_told_apart_by_side():
    pixels = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(2, 6, 3)
    photo, mask = pairs.split_pair(pixels, "left")
    np.testing.assert_array_equal(photo, pixels[:, :3])
    np.testing.assert_array_equal(mask, pixels[:, 3:])
    photo, mask = pairs.split_pair(pixels, "right")
    np.testing.assert_array_equal(photo, pixels[:, 3:])
    np.testing.assert_array_equal(mask, pixels[:, :3])


@pytest.mark.parametrize("width", [1, 127])
def test_an_odd_width_is_bad(width):
    with pytest.raises(pairs.OddWidth, match=f"{width}x4; a pair's width must be even"):
        pairs.split_pair(np.zeros((4, width, 3), np.uint8), "left")


def test_image_names():
    good = [f"{stem}.{end}" for stem, end in itertools.product("a1 é", ["jpg", "JPEG", "Png"])]
    assert all(map(pairs.is_image_name, good))
    bad = ["a.gif", "jpg", ".a.jpg", "x/._1.jpg", "a.jpg.txt", "a.jpg/b"]
    assert not any(map(pairs.is_image_name, bad))


@pytest.mark.parametrize(
    "options", [{"subsampling": s} for s in range(3)] + [{"progressive": True}]
)
def test_every_kind_of_jpeg_is_decoded_as_another_decoder_does(options):
    jpeg = encode(PIXELS, "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert np.abs(pairs.decode_image(jpeg) - expected).max() <= 4
