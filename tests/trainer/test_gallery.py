"""The page of a run says what the run's own figures say, needs nothing else, and works."""

import base64
import dataclasses
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from model import metrics
from pipeline import dataset_info, job, synthesize
from pipeline.dataset_info import DatasetInfo
from pipeline.palette import CITYSCAPES, IGNORE_LABEL
from pipeline.strips import FAR_COLOR
from tests.html_page import Page
from trainer import evaluation, run_folder, run_page, run_report

HOSTILE = '"><script>alert(1)</script>\u202e'


@pytest.fixture(scope="module")
def report(trained_run):
    return run_report.gather(str(trained_run.folder))


@pytest.fixture(scope="module")
def page(report):
    return Page(run_page.as_page(report))


def test_a_report_is_of_the_best_checkpoint_on_the_runs_own_records(
    report, trained_run, records_dir, scalars
):
    """Nobody said where those are."""
    _, info = run_folder.load(str(trained_run.folder))
    assert info.data_dir == str(records_dir)
    step, evaluator, _ = evaluation.load_run(
        str(records_dir), str(trained_run.folder), "val", "best", batch_size=1
    )
    assert report.measurement.step == step == report.best_point.step
    assert report.measurement.num_pictures == 7
    logged = scalars(trained_run.folder / "validation", "mean_iou")
    assert {p.step: p.value for p in report.validation["mean_iou"]} == logged
    matrix = report.measurement.matrix
    np.testing.assert_array_equal(matrix.sum(axis=1), info.splits["val"].class_pixels)
    assert metrics.mean_iou(matrix) == pytest.approx(logged[step], abs=1e-3)
    found = {e.key: e.pixel_accuracy for e in evaluator.examples(range(7))}
    order = sorted(found, key=lambda key: -found[key])
    assert [example.key for example in report.measurement.best] == order[:4]
    assert [example.key for example in report.measurement.worst] == order[:3:-1]


def test_the_page_needs_nothing_but_itself(page):
    page.assert_self_contained()
    assert len(page.source) < 1_000_000


def test_the_page_says_what_was_measured(page, report):
    matrix = report.measurement.matrix
    assert f"{metrics.mean_iou(matrix):.3f}" in page.text
    assert page.rows["pixel accuracy"] == [f"{metrics.pixel_accuracy(matrix):.1%}"]
    assert page.rows["best step"] == [str(report.measurement.step)]
    iou, accuracy = metrics.iou_per_class(matrix), metrics.accuracy_per_class(matrix)
    classes = {row[0]: row[1:] for row in page.cells if len(row) == 4}
    for k, name in enumerate(CITYSCAPES.class_names):
        assert classes[name][:2] == [
            "in neither truth nor prediction" if np.isnan(iou[k]) else f"{iou[k]:.3f}",
            "-" if np.isnan(accuracy[k]) else f"{accuracy[k]:.1%}",
        ]
    shown = [row[0] for row in page.cells if len(row) == 4][1:]
    assert sorted(shown[: np.isfinite(iou).sum()]) == sorted(
        name for name, value in zip(CITYSCAPES.class_names, iou, strict=True) if value >= 0
    )


def test_the_confusion_of_every_two_classes_is_told(page, report):
    matrix = report.measurement.matrix
    titles = [a["title"] for tag, a in page.tags if tag == "td" and "title" in a]
    seen = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
    assert len(titles) == len(seen) ** 2
    road, sky = 0, 10
    assert f"road taken for sky: {matrix[road, sky]:,} pixels, " in "\n".join(titles)
    share = matrix[road, road] / matrix[road].sum()
    assert f"road taken for road: {matrix[road, road]:,} pixels, {share:.2%}" in titles


def test_pictures_show_photo_truth_prediction_and_mistakes(page, report):
    examples = [*report.measurement.best, *report.measurement.worst]
    kinds = ("Photo", "Truth", "Prediction", "Mistakes")
    assert [image["alt"] for image in page.images] == [
        f"{kind} of {example.key}" for example in examples for kind in kinds
    ]
    worst = examples[-1]
    photo, truth, prediction, mistakes = (
        cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        for image in page.images[-4:]
        for data in [np.frombuffer(base64.b64decode(image["src"].partition(",")[2]), np.uint8)]
    )
    assert np.abs(photo.astype(int) - worst.photo).mean() < 8
    np.testing.assert_array_equal(truth, CITYSCAPES.colorize(worst.truth))
    void = worst.truth == IGNORE_LABEL
    np.testing.assert_array_equal(prediction[~void], CITYSCAPES.colorize(worst.prediction)[~void])
    assert not prediction[void].any()
    wrong = ~void & (worst.truth != worst.prediction)
    saturated = np.ptp(mistakes.astype(int), axis=-1)
    assert saturated[wrong].mean() > 0.7 * np.ptp(FAR_COLOR)
    assert saturated[~wrong].mean() < 0.3 * np.ptp(FAR_COLOR)
    assert f"{worst.pixel_accuracy:.1%} of its pixels are right" in "".join(page.text)


def test_the_card_says_recipe_data_licence_and_limits(report, page, tiny_config):
    assert page.rows["trained for"] == ["40 of 40 steps of 8 crops of 64 x 64 pixels"]
    assert page.rows["optimizer"] == ["sgd, learning rate 0.1, weight decay 0"]
    assert page.rows["pictures in train"] == ["24, up to 64 x 64 pixels"]
    assert page.rows["label recovery"] == ["robust"]
    assert page.rows["model.bins"] == [str(tiny_config.model.bins)]
    text = "".join(page.text)
    assert "Not known: the records do not say it." in text
    assert "Not to be relied on, with an IoU below 0.5: " in text
    licensed = "".join(Page(run_page.as_page(report, "CC BY-NC 4.0 <x>")).text)
    assert "CC BY-NC 4.0 <x>" in licensed
    assert "Not known" not in licensed


@pytest.fixture(scope="module")
def other_report(trained_run, tmp_path_factory):
    """The same run, measured on three pictures that are not its own."""
    folder = tmp_path_factory.mktemp("other")
    synthesize.write_data_set(str(folder / "pairs"), {"train": 1, "val": 3}, size=64, seed=5)
    options = job.JobOptions(
        str(folder / "pairs"), str(folder / "records"), name="elsewhere", num_shards=1
    )
    job.run(options)
    return run_report.gather(str(trained_run.folder), str(folder / "records"))


def test_other_records_are_told_from_the_runs_own(report, other_report):
    assert report.other_records is None
    assert other_report.other_records.name == "elsewhere"
    assert other_report.measurement.num_pictures == 3
    page = Page(run_page.as_page(other_report))
    text = " ".join("".join(page.text).split())
    assert "learned that from 24 photos with a label map each" in text
    where = "3 pictures of the other records \u201celsewhere\u201d"
    assert f"was measured on {where}, not on its own validation." in text
    assert f"Over the {where}." in text
    assert "The figures are of elsewhere, other records than those that the network" in text
    assert page.rows["measured on"] == ["3 pictures of elsewhere, up to 64 x 64 pixels"]
    assert page.rows["pictures in val"] == ["7, up to 64 x 64 pixels"]  # of its own records
    for of_own in ("never learned from", "flatters them a little", "no other pictures",
                   "pictures of validation"):  # fmt: skip
        assert of_own not in text
    own = " ".join("".join(Page(run_page.as_page(report)).text).split())
    assert "measured on 7 others, which it never learned from." in own
    assert "Over the 7 pictures of validation." in own
    assert "no other pictures were looked at" in own
    assert "other records" not in own and "measured on" not in Page(run_page.as_page(report)).rows


def test_a_copy_of_the_runs_own_records_is_no_other(report):
    measured = dataclasses.replace(
        report.measurement, info=report.measurement.info.kept_in("/somewhere/else")
    )
    assert dataclasses.replace(report, measurement=measured).other_records is None


def test_names_from_outside_are_only_text(report):
    value = json.loads(report.info.to_json().replace('"road"', json.dumps(HOSTILE)))
    value["provenance"]["input_dir"] = HOSTILE
    measured = report.measurement
    best = [dataclasses.replace(measured.best[0], key=HOSTILE)]
    other = dataclasses.replace(
        measured.info, name=HOSTILE, splits={"val": measured.info.splits["train"]}
    )
    page = Page(
        run_page.as_page(
            dataclasses.replace(
                report,
                name=HOSTILE,
                info=DatasetInfo.from_json(json.dumps(value)),
                validation={**report.validation, f"iou/{HOSTILE}": report.validation["iou/road"]},
                measurement=dataclasses.replace(measured, best=best, info=other),
            ),
            HOSTILE,
        )
    )
    page.assert_self_contained()
    assert "\u202e" not in page.source
    assert "".join(page.text).count("<script>") >= 8


@pytest.mark.parametrize("now", ["nothing", "other classes"])
def test_without_records_there_are_curves_and_the_card(
    trained_run, records_dir, report, tmp_path, now
):
    folder = shutil.copytree(trained_run.folder, tmp_path / "run")
    path = folder / dataset_info.INFO_FILE
    path.write_text(path.read_text().replace(report.info.data_dir, str(tmp_path / "moved")))
    if now == "other classes":
        shutil.copytree(records_dir, tmp_path / "moved")
        described = tmp_path / "moved" / dataset_info.INFO_FILE
        described.write_text(described.read_text().replace('"road"', '"street"'))
        assert "street" in dataset_info.load_info(str(tmp_path / "moved")).palette.class_names
    elsewhere = run_report.gather(str(folder))
    assert elsewhere.measurement is None
    page = Page(run_page.as_page(elsewhere))
    page.assert_self_contained()
    assert not page.images
    point = report.best_point
    assert page.rows["mIoU"] == [f"{point.value:.3f}"]
    assert page.rows["best step"] == [str(point.step)]
    assert "--data_dir=RECORDS" in page.text


def test_without_logs_there_are_the_figures_that_were_measured(report, page):
    silent = Page(run_page.as_page(dataclasses.replace(report, training={}, validation={})))
    assert "Nothing was logged" in "".join(silent.text)
    assert silent.rows["mIoU"] == page.rows["mIoU"]
    assert len(silent.images) == 28
    nothing = dataclasses.replace(report, training={}, validation={}, measurement=None)
    assert "Not measured yet." in Page(run_page.as_page(nothing)).text


def test_the_command_writes_the_page(trained_run, run_command, tmp_path):
    output = tmp_path / "run.html"
    done = run_command(
        "trainer.gallery", f"--model_dir={trained_run.folder}", f"--output={output}",
        "--data_licence=mine",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Page: {output}\n"
    page = Page(output.read_text(encoding="utf-8"))
    assert len(page.images) == 28 and "mine" in page.text
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"]


def test_it_works_in_a_browser(browser, page, tmp_path):
    (tmp_path / "gallery.html").write_text(page.source, encoding="utf-8")
    browser.get((tmp_path / "gallery.html").as_uri())
    by_css = "css selector"
    top = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    for link in browser.find_elements(by_css, "nav a"):
        link.click()
        section = re.sub(r".*#", "#", link.get_attribute("href"))
        assert -2 < browser.execute_script(top, section) < 900
        browser.execute_script("scrollTo(0, 0)")
    values = browser.find_element(by_css, "details table")
    assert not values.is_displayed()
    browser.find_element(by_css, "summary").click()
    assert values.is_displayed() and "optimizer.learning_rate" in values.text
    assert browser.execute_script(
        "return [...document.images].every((image) => image.complete && image.naturalWidth == 64)"
    )
    requests = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert {name[:5] for name in browser.execute_script(requests)} <= {"data:"}
    assert browser.get_log("browser") == []
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True},
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
