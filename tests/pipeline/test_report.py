"""What a person is told of a records folder: by the job, by ``inspect`` and by the page."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import dataset_info, job, report, report_page, strips
from pipeline.dataset_info import BadPairEntry, DuplicateEntry, load_info
from pipeline.job import JobOptions
from pipeline.palette import CITYSCAPES
from pipeline.records import encode_image
from tests.html_page import Page

HOSTILE = '<script>alert(1)<&"script>\u202e\x1b[2J.jpg'
"""A file name that would run, turn a line around and clear a terminal."""


def read_pair(path: Path) -> np.ndarray:
    return cv2.imread(str(path))


@pytest.fixture(scope="module")
def faulty_dir(pairs_dir, tmp_path_factory) -> Path:
    """The drawn pairs with every fault that is not one of the file's form."""
    folder = shutil.copytree(pairs_dir, tmp_path_factory.mktemp("faulty") / "pairs")
    train, val = folder / "train", folder / "val"
    shutil.copy(val / "3.jpg", train / "leak.jpg")
    shutil.copy(train / "5.jpg", train / HOSTILE)
    shutil.copy(val / "4.jpg", val / "again.jpg")
    pair = read_pair(train / "1.jpg")
    photo, mask = pair[:, :64], pair[:, 64:]
    for name, halves in (
        ("swapped.png", [mask, photo]),
        ("one_color.png", [photo, np.full_like(mask, (128, 64, 128))]),
    ):
        (train / name).write_bytes(encode_image(".png", np.concatenate(halves, axis=1)))
    # Of different content, but as long as each other: neither is a duplicate.
    for name, sign in (("x", 1), ("y", 2)):
        large = encode_image(".png", cv2.resize(pair, (160, 70)))
        (val / f"{name}.png").write_bytes(large + bytes([sign]))
    return folder


@pytest.fixture(scope="module")
def faulty_records(faulty_dir, tmp_path_factory) -> Path:
    """The records of `faulty_dir`, two shards a split. Not to be changed."""
    folder = tmp_path_factory.mktemp("faulty") / "records"
    job.run(JobOptions(str(faulty_dir), str(folder), num_shards=2, max_bad_fraction=0.5))
    return folder


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestFindings:
    def test_leaks_are_dropped_and_other_duplicates_listed(self, faulty_records):
        assert jsonl(faulty_records / dataset_info.DUPLICATES_FILE) == [
            {"split": split, "key": key, "duplicate_of": other, "dropped": dropped}
            for split, key, other, dropped in (
                ("train", HOSTILE, "train/5.jpg", False),
                ("train", "leak.jpg", "val/3.jpg", True),
                ("val", "again.jpg", "val/4.jpg", False),
            )
        ]
        splits = load_info(str(faulty_records)).splits
        assert [(s.num_duplicates, s.num_dropped_pairs) for s in splits.values()] == [
            (2, 1),
            (1, 0),
        ]
        assert (splits["train"].num_pairs, splits["train"].num_records) == (28, 25)
        assert (splits["val"].num_pairs, splits["val"].num_records) == (10, 10)

    def test_bad_masks_are_listed(self, faulty_records):
        bad = jsonl(faulty_records / dataset_info.BAD_PAIRS_FILE)
        assert {(entry["key"], entry["error"]) for entry in bad} == {
            ("swapped.png", "SwappedHalves"),
            ("one_color.png", "SingleColor"),
        }

    def test_sizes_and_codings_are_counted(self, faulty_records):
        splits = load_info(str(faulty_records)).splits
        assert splits["train"].sizes == {"64x64": 25}
        assert splits["train"].codings == {"JPEG 75 4:2:0": 25}
        assert list(splits["val"].sizes.items()) == [("64x64", 8), ("80x70", 2)]
        assert splits["val"].codings == {"JPEG 75 4:2:0": 8, "PNG": 2}
        assert (splits["val"].max_height, splits["val"].max_width) == (70, 80)


class TestLeakage:
    def test_leaks_can_be_kept(self, faulty_dir, tmp_path, capsys):
        options = JobOptions(
            str(faulty_dir), str(tmp_path / "records"), max_bad_fraction=0.5, leakage="keep"
        )
        info = job.run(options)
        assert info.splits["train"].num_dropped_pairs == 0
        assert info.splits["train"].num_records == 26
        assert info.provenance["leakage"] == "keep"
        assert "1 training pair is kept though another split" in capsys.readouterr().out
        leak = jsonl(tmp_path / "records" / dataset_info.DUPLICATES_FILE)[1]
        assert (leak["key"], leak["dropped"]) == ("leak.jpg", False)

    def test_where_all_of_training_leaks_the_job_fails(self, pairs_dir, tmp_path):
        for split in ("train", "val"):
            shutil.copytree(pairs_dir / "val", tmp_path / "pairs" / split)
        sentence = r"All 7 usable pairs of 'train' .*1\.jpg, is val/1\.jpg.* --leakage=keep"
        with pytest.raises(job.JobError, match=sentence):
            job.run(JobOptions(str(tmp_path / "pairs"), str(tmp_path / "records")))
        assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("content", [b"", None])
def test_pairs_that_change_before_they_are_shown_fail_the_job(
    pairs_dir, tmp_path, monkeypatch, content
):
    folder = shutil.copytree(pairs_dir, tmp_path / "pairs")

    def choose(_):
        (folder / "train" / "2.jpg").unlink()
        if content is not None:
            (folder / "train" / "2.jpg").write_bytes(content)
        return [("train", "2.jpg")], []

    monkeypatch.setattr(strips, "choose", choose)
    with pytest.raises((job.JobError, OSError)) as caught:
        job.run(JobOptions(str(folder), str(tmp_path / "records")))
    assert "2.jpg" in str(caught.value)
    assert not (tmp_path / "records").exists()


class TestPage:
    @pytest.fixture(scope="class")
    def source(self, faulty_records) -> str:
        return (faulty_records / dataset_info.REPORT_FILE).read_text()

    @pytest.fixture(scope="class")
    def page(self, source) -> Page:
        return Page(source)

    def test_it_needs_nothing_but_itself(self, page, source):
        page.assert_self_contained()
        assert len(source) < 3_000_000

    def test_a_hostile_name_is_only_text(self, page, source):
        harmless = HOSTILE.replace("\u202e", "\ufffd").replace("\x1b", "\ufffd")
        assert f"train/{harmless}" in page.text
        assert "<script" not in source
        assert "\u202e" not in source
        assert "\x1b" not in source

    def test_it_shows_samples_and_the_worst(self, page):
        names = {image["alt"].rpartition(" of ")[2] for image in page.images}
        assert {name.partition("/")[0] for name in names} == {"train", "val"}
        kinds = [image["alt"].partition(" of ")[0] for image in page.images]
        assert kinds == [
            "Photo", "Mask as stored", "Classes read back", "Where they differ"
        ] * (6 + 8)  # fmt: skip

    def test_it_says_what_the_description_says(self, page, faulty_records):
        info = load_info(str(faulty_records))
        rows = page.rows
        assert rows["pairs read"] == ["28", "10"]
        assert rows["dropped, in another split"] == ["1", "0"]
        assert rows["80x70"] == ["0", "2"]
        assert rows["train/leak.jpg"] == ["val/3.jpg", "left out"]
        assert rows["SwappedHalves"] == ["1"]
        assert rows["train/swapped.png"][0] == "SwappedHalves"
        for k, name in enumerate(CITYSCAPES.class_names):
            splits = info.splits.values()
            assert rows[name] == [
                *(report.share(s.class_pixels[k], s.num_pixels) for s in splits),
                *(str(s.class_records[k]) for s in splits),
                f"{info.class_weights()[k]:.2f}",
            ]

    def test_names_of_classes_and_reasons_are_escaped_too(self, records_dir):
        info = load_info(str(records_dir))
        value = json.loads(info.to_json().replace('"road"', '"<b onclick=1>road"'))
        value["name"] = "</title><i>"
        value["provenance"]["input_dir"] = "<u>"
        info = dataset_info.DatasetInfo.from_json(json.dumps(value))
        bad = [BadPairEntry("train", "<em>", "<s>", "<q>")]
        duplicates = [DuplicateEntry("train", "<h6>", "val/<h5>", True)]
        text = report_page.as_page(report.Findings(info, bad, duplicates), [], [])
        assert {tag for tag, _ in Page(text).tags}.isdisjoint({"u", "s", "q", "h6", "h5"})
        assert "<b onclick" not in text
        assert "</title><i>" not in text
        assert "<em>" not in text.replace("<em>pairs</em>", "").replace("<em>mask</em>", "")

    def test_a_name_that_is_no_text_can_be_written(self, records_dir):
        bad = [BadPairEntry("train", "\udcff.jpg", "NotAnImage", "why")]
        findings = report.Findings(load_info(str(records_dir)), bad, [])
        assert b"train/\xef\xbf\xbd.jpg" in report_page.as_page(findings, [], []).encode()
        assert "train/\ufffd.jpg" in report.as_text(findings)

    def test_long_lists_end_with_where_the_rest_is(self, records_dir):
        bad = [BadPairEntry("train", f"{n}.jpg", "NotAnImage", "why") for n in range(1234)]
        copies = [DuplicateEntry("val", f"{n}.jpg", "val/x.jpg", False) for n in range(2345)]
        findings = report.Findings(load_info(str(records_dir)), bad, copies)
        page = Page(report_page.as_page(findings, [], []))
        assert "And 1,184 more: all are in bad_pairs.jsonl." in page.text
        assert "And 2,295 more: all are in duplicates.jsonl." in page.text
        assert len(page.cells) < 200
        text = report.as_text(findings)
        assert text.count("\n") < 80
        assert "bad pairs, 1,234" in text
        assert "... all of them are in duplicates.jsonl" in text

    def test_exact_masks_have_no_worst(self, records_dir):
        findings = report.Findings(load_info(str(records_dir)), [], [])
        text = report_page.as_page(findings, [], [])
        assert "beyond doubt" in text
        assert "no two files have the same bytes" in text


class TestWarnings:
    def test_each_fault_has_its_sentence(self, faulty_records):
        warnings = "\n".join(report.load_findings(str(faulty_records)).warnings())
        for sentence in (
            "1 training pair is left out, as another split holds the same file",
            "2 pairs are kept though equal to another",
            "2 files are left out as no usable pair (1 SingleColor, 1 SwappedHalves)",
            "The photos of val have 2 sizes, up to 80x70",
        ):
            assert sentence in warnings

    def test_classes_that_cannot_be_learned_are_named(self, empty_summary):
        def part(split, *present):
            pixels = [int(name in present) for name in CITYSCAPES.class_names]
            return empty_summary(split, 0, label_pixels=[*pixels, *[0] * 237])

        everything = CITYSCAPES.class_names
        parts = [part("train", *everything[:17]), part("val", *everything[5:18])]
        info = dataset_info.build_info("pairs", parts, CITYSCAPES, {})
        assert report.Findings(info, [], []).warnings() == [
            "No training pixel shows what another split asks for: motorcycle.",
            "In no picture at all: bicycle.",
        ]
        parts[0] = part("train", *everything)
        info = dataset_info.build_info("pairs", parts, CITYSCAPES, {})
        assert report.Findings(info, [], []).warnings() == []

    def test_a_trace_is_not_called_nothing(self):
        assert report.share(0, 0) == "0%"
        assert report.share(1, 10**9) == "<0.001%"
        assert report.share(1, 10**5) == "0.001%"
        assert report.share(10, 10) == "100.000%"


class TestInspect:
    def test_it_says_what_the_job_said(self, faulty_dir, faulty_records, tmp_path, run_command):
        """And two worker processes make the same of faulty pairs as one."""
        done = run_command(
            "pipeline.preprocess",
            f"--input_dir={faulty_dir}",
            f"--output_dir={tmp_path / 'records'}",
            "--num_shards=2",
            "--num_workers=2",
            "--max_bad_fraction=0.5",
        )
        assert (done.returncode, done.stderr) == (0, "")
        for path in (tmp_path / "records").iterdir():
            assert path.read_bytes() == (faulty_records / path.name).read_bytes()
        inspected = run_command("pipeline.inspect", f"--data_dir={faulty_records}")
        assert (inspected.returncode, inspected.stderr) == (0, "")
        *said, last = inspected.stdout.splitlines()
        assert last == "All 4 shards are as they were written, by their SHA-256 checksums."
        assert done.stdout.startswith("\n".join(said))
        assert "report.html" in done.stdout
        for words in (
            r"pairs read +28 +10",
            r"dropped, in another split +1 +0",
            r"  80x70 +0 +2",
            r"  JPEG 75 4:2:0 +25 +8",
            r"  road +\d\d\.\d+% +\d\d\.\d+% +25 +10 +\d\.\d\d",
            r"  train/leak.jpg is val/3.jpg \(dropped\)",
            r"  train/one_color.png: SingleColor: ",
        ):
            assert re.search(words, inspected.stdout), words
        assert "\x1b" not in inspected.stdout

    def test_a_damaged_shard_is_named(self, records_dir, tmp_path, run_command):
        folder = shutil.copytree(records_dir, tmp_path / "records")
        name = "pairs-val.tfrecord-00001-of-00002"
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        done = run_command("pipeline.inspect", f"--data_dir={folder}")
        assert done.returncode == 1
        assert "pairs read" in done.stdout
        assert re.fullmatch(rf"error: Damaged, by their checksums: {name} in .*\n", done.stderr)

    def test_no_records_are_told_in_a_sentence(self, tmp_path, run_command):
        done = run_command("pipeline.inspect", f"--data_dir={tmp_path}")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert "records_info.json" in done.stderr
        assert done.stderr.count("\n") == 1
