"""A pair's file is read into photo, mask and labels, or refused with the reason."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline import synthesize
from pipeline.labels import UnknownColors
from pipeline.pair_reader import PairReader, SingleColor, SwappedHalves
from pipeline.pairs import BadPair
from pipeline.palette import CITYSCAPES, IGNORE_LABEL, Entry, Palette

PHOTO, LABELS = synthesize.draw_scene(synthesize.scene_rng(0, "train", 1), 64)
ROAD, SKY = (CITYSCAPES.class_names.index(name) for name in ("road", "sky"))
OBJECT_OR_NOT = Palette(
    "object",
    (
        Entry("rest", (0, 0, 0), 0),
        Entry("object", (255, 255, 255), 1),
        Entry("void", (128, 128, 0), IGNORE_LABEL),
    ),
)


@pytest.fixture(scope="module")
def readers() -> dict[str, PairReader]:
    """By the photo's side."""
    return {side: PairReader(CITYSCAPES, side) for side in ("left", "right")}


def encoded(left: np.ndarray, right: np.ndarray, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.concatenate([left, right], axis=1)).save(file, form, **options)
    return file.getvalue()


def mask_of(labels: np.ndarray) -> np.ndarray:
    return CITYSCAPES.colorize(labels)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_good_pair_comes_apart(readers, side):
    halves = [PHOTO, mask_of(LABELS)]
    pair = readers[side](encoded(*(halves if side == "left" else halves[::-1])))
    np.testing.assert_array_equal(pair.photo, PHOTO)
    np.testing.assert_array_equal(pair.mask, mask_of(LABELS))
    np.testing.assert_array_equal(pair.labels.train_ids, LABELS)
    assert pair.coding == "PNG"


@pytest.mark.parametrize(("quality", "subsampling"), [(75, "4:2:0"), (50, "4:4:4"), (95, "4:2:2")])
def test_a_jpeg_says_how_it_was_coded(readers, quality, subsampling):
    data = synthesize.encode_pair(PHOTO, LABELS, quality, subsampling)
    assert readers["left"](data).coding == f"JPEG {quality} {subsampling}"


def test_a_jpeg_without_chroma_is_called_so(readers):
    data = encoded(PHOTO, mask_of(LABELS), "JPEG", keep_rgb=True, quality=95)
    assert readers["left"](data).coding == "other JPEG"


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_a_damaged_jpeg_is_read_or_refused(readers, subsampling):
    """By both decoders: OpenCV's of the pixels, Pillow's of luma and chroma."""
    data = synthesize.encode_pair(PHOTO, LABELS, 75, subsampling)
    rng = np.random.default_rng(0)
    refusals = []
    for places in [[-1], [-2, -1], [-3], *(rng.integers(0, len(data), (200, 3)).tolist())]:
        damaged = bytearray(data)
        for place in places:
            damaged[place] ^= 1 << rng.integers(8)
        try:
            readers["left"](bytes(damaged))
        except BadPair as error:
            refusals.append(error)
    assert 10 < len(refusals) < 190


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize(("side", "other"), [("left", "right"), ("right", "left")])
def test_swapped_halves_are_told_with_the_mend(readers, side, other, form):
    halves = [mask_of(LABELS), PHOTO]
    data = encoded(*(halves if side == "left" else halves[::-1]), form)
    with pytest.raises(SwappedHalves) as caught:
        readers[side](data)
    assert f"the {side} half looks like the mask" in str(caught.value)
    assert f"the {other} half like the photo" in str(caught.value)
    assert f"--image_side={other}" in str(caught.value)


@pytest.mark.parametrize("quality", [30, 75])
def test_swapped_halves_are_told_from_good_ones_however_grey_the_photo(readers, quality):
    for index in range(60):
        scene = synthesize.draw_scene(synthesize.scene_rng(1, "grey", index), 128)
        data = synthesize.encode_pair(*scene, quality)
        readers["left"](data)
        with pytest.raises(SwappedHalves):
            readers["right"](data)


def test_where_neither_half_looks_like_a_mask_they_are_not_called_swapped(readers):
    with pytest.raises(UnknownColors):
        readers["left"](encoded(PHOTO, PHOTO[::-1]))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize(("train_id", "name"), [(ROAD, "'road'"), (IGNORE_LABEL, "void")])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("width", [64, 61, 10])
def test_a_mask_of_one_colour_is_refused(readers, form, train_id, name, side, width):
    """Though a JPEG's blocks carry some of the photo into it, where it is not a multiple of 16."""
    halves = [PHOTO[:, :width], mask_of(np.full((64, width), train_id))]
    if form == "JPEG" and width == 10:
        halves[0] = np.zeros_like(halves[1]) + halves[1]  # all of so small a mask may be damaged
    with pytest.raises(SingleColor, match=f"the whole mask is {name}"):
        readers[side](encoded(*(halves if side == "left" else halves[::-1]), form))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_little_of_another_class_is_enough(readers, form):
    labels = np.full((64, 64), ROAD)
    labels[20:28, 40:48] = SKY
    read = readers["left"](encoded(PHOTO, mask_of(labels), form, quality=95)).labels
    assert {ROAD, SKY} <= set(np.unique(read.train_ids))


@pytest.mark.parametrize(
    ("color", "good"), [((0, 0, 0), True), ((255, 255, 255), True), ((128, 128, 0), False)]
)
def test_with_two_classes_a_picture_of_one_is_an_ordinary_one(color, good):
    read = PairReader(OBJECT_OR_NOT, "left")
    data = encoded(PHOTO, np.full_like(PHOTO, color))
    if good:
        assert len(np.unique(read(data).labels.train_ids)) == 1
    else:
        with pytest.raises(SingleColor, match="void"):
            read(data)


def test_real_pairs_are_good_and_noticed_when_swapped(readers, real_pairs):
    for path in sorted(real_pairs.rglob("*.jpg"))[::20]:
        data = path.read_bytes()
        assert readers["left"](data).coding.startswith("JPEG ")
        with pytest.raises(SwappedHalves):
            readers["right"](data)
