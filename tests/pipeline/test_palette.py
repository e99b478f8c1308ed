"""The class table: its rules, its two file forms, and the facts of Cityscapes."""

import csv
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.palette import (
    CITYSCAPES,
    IGNORE_LABEL,
    Entry,
    Palette,
    PaletteError,
    parse_palette,
)

HEADER = "name,red,green,blue,train_id"
LEVELS = st.integers(0, 255)
NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), min_size=1).map(str.strip)


@st.composite
def palettes(draw):
    colors = draw(st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=1, max_size=40, unique=True))
    num_classes = draw(st.integers(1, len(colors)))
    rest = st.sampled_from([*range(num_classes), IGNORE_LABEL])
    train_ids = [*range(num_classes), *(draw(rest) for _ in colors[num_classes:])]
    train_ids = draw(st.permutations(train_ids))
    names = draw(st.lists(NAMES, min_size=len(colors), max_size=len(colors), unique=True))
    entries = (Entry(*values) for values in zip(names, colors, train_ids, strict=True))
    return Palette("own.csv", tuple(entries))


def to_csv(palette: Palette) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(HEADER.split(","))
    rows.writerows([e.name, *e.color, e.train_id] for e in palette.entries)
    return text.getvalue()


def test_two_classes_of_one_name_are_refused_and_two_colours_of_one_class_are_not():
    names = [Entry("car", (0, 0, 1), 0), Entry("car", (0, 0, 2), 0)]
    assert Palette("own", tuple(names)).class_names == ["car"]
    with pytest.raises(PaletteError, match="2 classes are called 'car'"):
        Palette("own", (names[0], Entry("car", (0, 0, 2), 1)))


def test_cityscapes_has_29_colours_19_classes_and_10_kinds_of_void():
    assert CITYSCAPES.colors.shape == (29, 3)
    assert CITYSCAPES.num_classes == 19
    assert len(CITYSCAPES.class_names) == len(set(CITYSCAPES.class_names)) == 19
    assert np.count_nonzero(CITYSCAPES.train_ids == IGNORE_LABEL) == 10
    assert len(np.unique(CITYSCAPES.colors, axis=0)) == 29


@pytest.mark.parametrize(
    ("train_id", "name", "color"),
    [
        (0, "road", (128, 64, 128)),
        (7, "traffic sign", (220, 220, 0)),
        (10, "sky", (70, 130, 180)),
        (13, "car", (0, 0, 142)),
        (18, "bicycle", (119, 11, 32)),
    ],
)
def test_cityscapes_classes_stand_in_their_published_order(train_id, name, color):
    assert CITYSCAPES.class_names[train_id] == name
    assert tuple(CITYSCAPES.class_colors[train_id]) == color


@given(palettes())
def test_every_class_is_found_again_by_the_colour_it_is_drawn_in(palette):
    labels = np.arange(palette.num_classes)
    train_id_by_color = {e.color: e.train_id for e in palette.entries}
    drawn = palette.colorize(labels)
    assert [train_id_by_color[tuple(color)] for color in drawn.tolist()] == labels.tolist()


def test_colorize_keeps_the_shape_and_draws_void_and_unknown_ids_black():
    labels = np.array([[0, 10, 18], [IGNORE_LABEL, 19, 254]], np.uint8)
    drawn = CITYSCAPES.colorize(labels)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (2, 3, 3)
    assert drawn[0].tolist() == [[128, 64, 128], [70, 130, 180], [119, 11, 32]]
    assert not drawn[1].any()


def test_a_class_of_several_colours_is_drawn_in_the_first():
    day, night, road = (200, 220, 255), (10, 10, 40), (90, 90, 90)
    palette = Palette(
        "skies", (Entry("day", day, 1), Entry("road", road, 0), Entry("night", night, 1))
    )
    assert palette.num_classes == 2
    assert palette.class_names == ["road", "day"]
    assert palette.colorize(np.array([1])).tolist() == [list(day)]
    assert palette.train_ids.tolist() == [1, 0, 1]


def test_a_colour_given_twice_is_refused_naming_both():
    entries = (Entry("road", (1, 2, 3), 0), Entry("lane", (1, 2, 3), 1))
    with pytest.raises(PaletteError, match=r"'road' and 'lane' have the same colour \(1, 2, 3\)"):
        Palette("own", entries)


@pytest.mark.parametrize("color", [(256, 0, 0), (0, -1, 0)])
def test_a_level_outside_0_to_255_is_refused_naming_the_class(color):
    with pytest.raises(PaletteError, match=re.escape(f"{color} for 'road'")):
        Palette("own", (Entry("road", color, 0),))


@pytest.mark.parametrize(
    "train_ids", [[1], [0, 2], [-1, 0], [0, 254], [IGNORE_LABEL]], ids=lambda ids: str(ids)
)
def test_train_ids_that_are_not_0_to_k_minus_1_are_refused(train_ids):
    entries = tuple(Entry(f"class {i}", (i, 0, 0), t) for i, t in enumerate(train_ids))
    with pytest.raises(PaletteError, match="'own': train ids must be 0 to K-1 without a gap"):
        Palette("own", entries)


def test_254_classes_fit_and_one_more_does_not():
    entries = tuple(Entry(f"class {i}", (i, 0, 0), i) for i in range(254))
    assert Palette("own", entries).num_classes == 254
    with pytest.raises(PaletteError, match="at most 254"):
        Palette("own", (*entries, Entry("one more", (254, 0, 0), 254)))


def test_no_colours_are_refused():
    with pytest.raises(PaletteError, match="'own' has no colours"):
        Palette("own", ())


@settings(deadline=None)
@given(palettes())
def test_json_holds_every_palette(palette):
    assert parse_palette(json.dumps(palette.to_dict()), "a.json") == palette


@settings(deadline=None)
@given(palettes())
def test_csv_holds_every_palette(palette):
    assert parse_palette(to_csv(palette), "own.csv") == palette


def test_json_without_a_name_takes_the_files():
    value = {"classes": CITYSCAPES.to_dict()["classes"]}
    assert parse_palette(json.dumps(value), "mine.JSON").name == "mine.JSON"


def test_csv_takes_spaces_after_commas_and_an_empty_train_id_as_void():
    palette = parse_palette(f"{HEADER}\nroad, 128, 64, 128, 0\nego, 0, 0, 0,\n", "OWN.CSV")
    assert palette.entries == (
        Entry("road", (128, 64, 128), 0),
        Entry("ego", (0, 0, 0), IGNORE_LABEL),
    )


@pytest.mark.parametrize(
    "row", ["road,red,64,128,0", "road,128,64", "road,128,64,128,none", "road,,64,128,0"]
)
def test_a_malformed_csv_row_is_named_by_its_line(row):
    with pytest.raises(PaletteError, match=r"'own\.csv', line 3: expected the columns name,red"):
        parse_palette(f"{HEADER}\nsky,70,130,180,1\n{row}\n", "own.csv")


def test_csv_without_the_header_is_refused():
    with pytest.raises(PaletteError, match="expected the columns name,red,green,blue,train_id"):
        parse_palette("road,128,64,128,0\nsky,70,130,180,1\n", "own.csv")


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        ("{", "own.json", "'own.json' is not JSON"),
        ("[]", "own.json", "'own.json' must hold a JSON object"),
        ("{}", "own.json", "lacks this: KeyError"),
        ('{"classes": [{"name": "a", "color": [1, 2], "train_id": 0}]}', "own.json", "lacks this"),
        ('{"classes": [{"name": "a", "color": 7, "train_id": 0}]}', "own.json", "lacks this"),
        (HEADER, "own.csv", "'own.csv' has no colours"),
        ("", "own.txt", r"\.json or a \.csv file\. Received: 'own\.txt'"),
    ],
)
def test_unreadable_palettes_are_refused_with_a_sentence(text, name, sentence):
    with pytest.raises(PaletteError, match=sentence):
        parse_palette(text, name)
