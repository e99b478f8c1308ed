"""Synthetic scenes: the same for the same seed, like streets, and no giveaway."""

import importlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from pipeline import street, synthesize
from pipeline.errors import UserError
from pipeline.palette import CITYSCAPES, IGNORE_LABEL

ROOT = Path(__file__).parents[2]


def scene(index: int, size: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return street.draw_scene(synthesize.scene_rng(seed, "train", index), size)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def write(folder: Path, train: int = 2, val: int = 1, size: int = 64, seed: int = 0):
    synthesize.write_data_set(str(folder), {"train": train, "val": val}, size, seed)
    return files(folder)


@pytest.fixture(scope="module")
def scenes() -> tuple[np.ndarray, np.ndarray]:
    """Photos uint8 [40, 128, 128, 3] and labels uint8 [40, 128, 128]."""
    photos, labels = zip(*(scene(index) for index in range(40)), strict=True)
    return np.stack(photos), np.stack(labels)


def test_the_constants_are_the_train_ids_of_cityscapes():
    for train_id, name in enumerate(CITYSCAPES.class_names):
        assert getattr(street, name.upper().replace(" ", "_")) == train_id


def test_same_seed_same_bytes(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert sorted(first) == ["train/1.jpg", "train/2.jpg", "val/1.jpg"]
    assert first == second


def test_seeds_splits_and_indices_all_give_other_pictures(tmp_path):
    pictures = [*write(tmp_path / "a").values(), *write(tmp_path / "b", seed=1).values()]
    assert len(set(pictures)) == len(pictures) == 6


def test_more_pictures_leave_the_earlier_ones_as_they_were(tmp_path):
    few, many = write(tmp_path / "few", 1, 1), write(tmp_path / "many", 3, 2)
    assert few.items() < many.items()


def test_the_global_generator_is_left_alone():
    np.random.seed(0)
    scene(1, size=64)
    assert np.random.random() == np.random.RandomState(0).random_sample()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63), st.integers(32, 100).map(lambda half: 2 * half))
def test_every_seed_and_size_gives_a_photo_and_train_ids(seed, size):
    photo, labels = scene(1, size, seed)
    assert photo.shape == (size, size, 3)
    assert labels.shape == (size, size)
    assert photo.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {*range(19), IGNORE_LABEL}
    assert photo.std() > 5


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_a_pair_is_twice_as_wide_as_high(tmp_path, size):
    (jpeg,) = write(tmp_path / "a", train=1, val=0, size=size).values()
    assert Image.open(io.BytesIO(jpeg)).size == (2 * size, size)


@pytest.mark.parametrize("index", range(4))
def test_size_changes_the_resolution_and_not_the_street(index):
    _, small = scene(index, 128)
    _, large = scene(index, 512)
    assert (small == large[2::4, 2::4]).mean() > 0.9


def test_the_mask_half_shows_the_labels_colours_but_for_jpegs_damage():
    photo, labels = scene(1, 256)
    errors = []
    for quality in (50, 75, 95):
        jpeg = synthesize.encode_pair(photo, labels, quality)
        pair = np.asarray(Image.open(io.BytesIO(jpeg)))
        left, right = pair[:, :256].astype(float), pair[:, 256:].astype(float)
        assert np.abs(left - photo).mean() < 10
        errors.append(np.abs(right - CITYSCAPES.colorize(labels)).mean())
    assert errors[1] < 6
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(("subsampling", "code"), [("4:4:4", 0), ("4:2:2", 1), ("4:2:0", 2)])
def test_chroma_is_subsampled_as_told(subsampling, code):
    jpeg = synthesize.encode_pair(*scene(1, 64), subsampling=subsampling)
    assert JpegImagePlugin.get_sampling(Image.open(io.BytesIO(jpeg))) == code


def test_what_is_no_quality_or_subsampling_is_refused():
    pair = scene(1, 64)
    with pytest.raises(UserError, match="Received: 0"):
        synthesize.encode_pair(*pair, quality=0)
    with pytest.raises(UserError, match=r"4:2:0, .*Received: '4:2:1'"):
        synthesize.encode_pair(*pair, subsampling="4:2:1")


def test_classes_occur_as_they_do_on_streets(scenes):
    _, labels = scenes
    shares = {name: (labels == i).mean() for i, name in enumerate(CITYSCAPES.class_names)}
    often = [(labels == i).any((1, 2)).mean() > 0.4 for i in range(19)]
    assert sum(often) >= 14
    assert min(shares.values()) > 0
    assert (labels == street.ROAD).any((1, 2)).all()
    assert 0.2 < shares["road"] < 0.45
    for name in ("building", "sky", "vegetation"):
        assert 0.05 < shares[name] < 0.3
    for name in ("sidewalk", "car", "person"):
        assert 0.01 < shares[name] < 0.12
    assert 0 < (labels == IGNORE_LABEL).mean() < 0.06


def test_the_street_is_where_a_street_is(scenes):
    _, labels = scenes
    rows = np.arange(labels.shape[1])

    def height(train_id: int) -> float:
        return np.average(rows, weights=(labels == train_id).sum((0, 2))) / len(rows)

    assert height(street.SKY) < height(street.BUILDING) < height(street.CAR)
    assert height(street.CAR) < height(street.ROAD)


def test_a_pixels_colour_does_not_give_its_class_away(scenes):
    """A network that saw single pixels only would learn little more than the share of road.

    Measured: nearest mean colour 0.17, most frequent class by colour 0.40, always road 0.25.
    """
    photos, labels = scenes
    train_photos, train_labels = photos[:30], labels[:30]
    known = labels[30:] != IGNORE_LABEL
    colors, truth = photos[30:][known].astype(float), labels[30:][known]
    means = np.stack([train_photos[train_labels == i].mean(0) for i in range(19)])
    # |c - m|^2 without the term that is the same for every class
    nearest = ((means**2).sum(1) - 2 * colors @ means.T).argmin(1)
    assert (nearest == truth).mean() < 0.4

    def cell(values: np.ndarray) -> np.ndarray:
        return values.astype(int) // 16 @ (256, 16, 1)

    counts = np.zeros((4096, 256), int)
    np.add.at(counts, (cell(train_photos), train_labels), 1)
    assert (counts[:, :19].argmax(1)[cell(colors)] == truth).mean() < 0.65


def test_a_folder_that_is_not_empty_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder: name another"):
        write(tmp_path)
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_a_file_is_refused_and_kept(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder"):
        write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tmp_path):
    (tmp_path / "a").mkdir()
    assert write(tmp_path / "a") == write(tmp_path / "b" / "c")


def test_an_interrupted_run_leaves_nothing_and_a_killed_one_is_cleared_away(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthesize, "encode_pair", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a")
    assert not list(tmp_path.iterdir())

    (tmp_path / "a.incomplete" / "train").mkdir(parents=True)
    (tmp_path / "a.incomplete" / "train" / "9.jpg").write_text("half")
    assert sorted(write(tmp_path / "a")) == ["train/1.jpg", "train/2.jpg", "val/1.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"train": -1}, "--train .* Received: -1"),
        ({"val": -3}, "--val .* Received: -3"),
        ({"size": 62}, "--size is an even number of pixels, 64 to 1024. Received: 62"),
        ({"size": 65}, "Received: 65"),
        ({"size": 1026}, "Received: 1026"),
        ({"seed": -1}, "--seed is 0 or more. Received: -1"),
    ],
)
def test_impossible_numbers_are_refused_with_a_sentence(tmp_path, changed, sentence):
    with pytest.raises(UserError, match=sentence):
        write(tmp_path / "a", **changed)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_wrote_and_refuses_in_one_line(tmp_path):
    command = [sys.executable, "-m", "pipeline.synthesize", "--train=2", "--val=1", "--size=64"]
    command.append(f"--output_dir={tmp_path / 'a'}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"Wrote 2 train and 1 val pairs of 128x64 pixels to {tmp_path / 'a'}.\n"
    assert (done.returncode, done.stderr) == (0, "")
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.count("\n") == 1
    assert str(tmp_path / "a") in again.stderr


def test_its_flags_do_not_clash_with_another_commands():
    importlib.import_module("pipeline.preprocess")
