"""The demo's page and its answers, through a client and in a browser, by clicking."""

import http.client
import json
import re
import signal
import struct
import subprocess
import sys
import threading
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.palette import CITYSCAPES, Entry, Palette
from tests.html_page import Page
from trainer import demo_app, prediction

ROOT = Path(__file__).parents[2]
MAX_SIDE = 64


@pytest.fixture(scope="module")
def predict(trained_run):
    predictor, _ = prediction.load_saved_model(trained_run.saved_model)
    return predictor


@pytest.fixture(scope="module")
def app(predict):
    return demo_app.create_app(predict, CITYSCAPES, "RUN/export/40", MAX_SIDE)


@pytest.fixture(scope="module")
def client(app):
    return app.test_client()


@pytest.fixture(scope="module")
def scene(pairs_dir):
    """A photo: uint8 [64, 64, 3], RGB."""
    pair = cv2.imread(str(pairs_dir / "val" / "1.jpg"))
    return cv2.cvtColor(pair[:, :64], cv2.COLOR_BGR2RGB)


def png(photo):
    return cv2.imencode(".png", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))[1].tobytes()


def ids_of(response):
    assert (response.status_code, response.mimetype) == (200, "image/png")
    return cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED)


def settings_of(page):
    return json.loads(re.search(r'id="settings">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_asks_for_its_own_files_only(client):
    page = Page(client.get("/").text)
    asked = [a[name] for _, a in page.tags for name in ("src", "href", "action") if name in a]
    assert asked == ["data:,", "style.css", "demo.js"]
    kinds = [client.get(f"/{name}").mimetype for name in asked[1:]]
    assert kinds == ["text/css", "text/javascript"]
    source = client.get("/").text + client.get("/style.css").text + client.get("/demo.js").text
    assert not re.search(r"https?:|url\(|@import|innerHTML|eval\(", source)
    assert settings_of(client.get("/").text)["classes"] == [
        {"name": name, "color": color}
        for name, color in zip(
            CITYSCAPES.class_names, CITYSCAPES.class_colors.tolist(), strict=True
        )
    ]
    assert "RUN/export/40" in page.text


def test_the_classes_names_are_only_text(predict):
    name = "</script><script>alert(1)</script>"
    palette = Palette("mine", (Entry(name, (1, 2, 3), 0),))
    page = demo_app.create_app(predict, palette, name, MAX_SIDE).test_client().get("/").text
    assert [tag for tag, _ in Page(page).tags].count("script") == 2
    assert settings_of(page)["classes"] == [{"name": name, "color": [1, 2, 3]}]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/demo.js"), ("POST", "/predict"), ("GET", "/no")]
)
def test_every_answer_forbids_what_it_does_not_need(client, method, path):
    headers = client.open(path, method=method).headers
    policy = dict(part.strip().split(" ", 1) for part in
                  headers["Content-Security-Policy"].split(";"))  # fmt: skip
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in headers


def test_a_photo_gets_the_networks_ids(client, predict, scene):
    for photo in (scene, scene[:41, :53]):
        found = ids_of(client.post("/predict", data=png(photo)))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, predict(photo))
    grey = cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY)
    found = ids_of(client.post("/predict", data=cv2.imencode(".png", grey)[1].tobytes()))
    np.testing.assert_array_equal(found, predict(np.repeat(grey[..., None], 3, axis=-1)))


def test_a_photo_is_labelled_as_it_is_shown(client, scene, tmp_path):
    image = Image.fromarray(scene[:40])
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    answer = client.post("/predict", data=(tmp_path / "turned.jpg").read_bytes())
    assert ids_of(answer).shape == (64, 40)


def test_a_large_photo_is_made_smaller(client, predict, scene):
    large = cv2.resize(scene, (400, 200))
    found = ids_of(client.post("/predict", data=png(large)))
    small = cv2.resize(large, (64, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(found, predict(small))
    assert ids_of(client.post("/predict", data=png(large[:1]))).shape == (1, 64)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 400, "The photo cannot be used: the file is empty."),
        (b"this is text", 400, "The photo cannot be used: not a JPEG or PNG file."),
        (bomb(), 400, "exceeds limit"),
        (png(np.zeros((1, 600_000, 3), np.uint8)), 400, "600000x1 pixels; a side may have 65500"),
        (png(np.zeros((64, 64, 3), np.uint8))[:60], 400, "cut short"),
        (cv2.imencode(".png", np.zeros((8, 8, 4), np.uint8))[1].tobytes(), 400, "mode RGBA"),
        (bytes(2**25 + 1), 413, "The photo is too large: at most 32 MiB are taken."),
    ],
    ids=["empty", "text", "bomb", "long", "half", "transparent", "large"],
)
def test_what_is_no_photo_is_told_in_a_sentence(client, data, status, words):
    answer = client.post("/predict", data=data)
    assert (answer.status_code, answer.mimetype) == (status, "text/plain")
    assert words in answer.text and "\n" not in answer.text


def test_a_failure_of_the_network_is_told_in_a_sentence(scene):
    def fail(_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    client = demo_app.create_app(fail, CITYSCAPES, "RUN", MAX_SIDE).test_client()
    answer = client.post("/predict", data=png(scene))
    assert answer.status_code == 500
    assert answer.text.startswith("Memory or disk ran out: OOM when allocating.")


@pytest.mark.parametrize("path", ["/", "/predict"])
def test_only_this_machines_names_are_answered(client, scene, path):
    method = "POST" if path == "/predict" else "GET"
    for host, status in (
        ("127.0.0.1:8000", 200), ("localhost:1", 200), ("evil.example", 400), ("127.0.0.1.x", 400),
    ):  # fmt: skip
        answer = client.open(path, method=method, data=png(scene), headers={"Host": host})
        assert answer.status_code == status


def test_other_sites_pages_are_refused(client, scene):
    for site, status in (("same-origin", 200), ("cross-site", 403), ("same-site", 403)):
        answer = client.post("/predict", data=png(scene), headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status


def test_one_photo_is_predicted_at_a_time(predict, scene):
    busy = threading.Lock()

    def watched(photo):
        assert busy.acquire(blocking=False)
        try:
            return predict(photo)
        finally:
            busy.release()

    app = demo_app.create_app(watched, CITYSCAPES, "RUN", MAX_SIDE)
    with ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(app.test_client().post, "/predict", data=png(scene))
                 for _ in range(12)]  # fmt: skip
        assert {post.result().status_code for post in posts} == {200}


def test_the_command_serves_until_it_is_stopped(trained_run, predict, scene):
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.demo", f"--saved_model={trained_run.saved_model}",
         "--port=0"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A job in the background ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        address = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        assert address, process.communicate()[1]
        photo = urllib.request.Request(address[0] + "predict", data=png(scene))
        with urllib.request.urlopen(photo, timeout=60) as answer:
            ids = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(ids, predict(scene))
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=60)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(2**40))
        connection.endheaders()
        assert connection.getresponse().status == 413  # without waiting for what is announced
        with pytest.raises(demo_app.DemoError, match=f"--port {address[1]} cannot be listened on"):
            demo_app.listen(lambda *_: [], int(address[1]))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address(app):
    server, address = demo_app.listen(app, 0)
    # It serves connections that the browser keeps open until the process ends.
    threading.Thread(target=server.run, daemon=True).start()
    yield address
    server.close()


class TestInABrowser:
    @pytest.fixture
    def shown(self, browser, address, scene, tmp_path):
        """The page with `scene` chosen and labelled."""
        (tmp_path / "scene.png").write_bytes(png(scene))
        browser.get(address)
        self.find(browser, "#file").send_keys(str(tmp_path / "scene.png"))
        self.wait_for(browser, "#result")
        yield browser
        requests = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert all(name.startswith((address, "data:", "blob:"))
                   for name in browser.execute_script(requests))  # fmt: skip

    @staticmethod
    def find(browser, selector):
        return browser.find_element("css selector", selector)

    def wait_for(self, browser, selector):
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(browser, 60, poll_frequency=0.05)
        return wait.until(lambda _: self.find(browser, selector).is_displayed())

    def pixels(self, browser, canvas):
        """RGBA of a canvas: uint8 [H, W, 4]."""
        size, *levels = browser.execute_script(
            "const canvas = document.querySelector(arguments[0]);"
            "const [width, height] = [canvas.width, canvas.height];"
            "const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);"
            "return [[height, width], ...data];",
            canvas,
        )
        return np.array(levels, np.uint8).reshape(*size, 4)

    def point_at(self, browser, x, y):
        """Moves the pointer to the middle of a pixel and returns what the page calls it."""
        from selenium.webdriver.common.action_chains import ActionChains

        picture = self.find(browser, "#picture")
        # Places are counted from the middle of what can be seen of it.
        browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", picture)
        places = [
            round(((place + 0.5) / 64 - 0.5) * size)
            for place, size in ((x, picture.size["width"]), (y, picture.size["height"]))
        ]
        ActionChains(browser, 0).move_to_element_with_offset(picture, *places).perform()
        return self.find(browser, "#tip").text

    def test_pointing_clicking_and_keys(self, shown, predict, scene):
        from selenium.webdriver.common.keys import Keys

        ids = predict(scene)
        np.testing.assert_array_equal(
            self.pixels(shown, "#overlay")[..., :3], CITYSCAPES.colorize(ids)
        )
        np.testing.assert_array_equal(self.pixels(shown, "#photo")[..., :3], scene)
        names = CITYSCAPES.class_names
        for x, y in ((0, 0), (63, 63), (20, 5), (40, 60), (5, 33)):
            assert self.point_at(shown, x, y) == names[ids[y, x]]
            assert names[ids[y, x]] in self.find(shown, "#legend .pointed").text

        found, counts = np.unique(ids, return_counts=True)
        order = np.argsort(-counts)
        buttons = shown.find_elements("css selector", "#legend button")
        assert [button.text.split("\n")[0] for button in buttons] == [
            names[k] for k in found[order]
        ]
        assert f"{counts.max() / ids.size:.1%}" in buttons[0].text
        buttons[0].click()
        alpha = self.pixels(shown, "#overlay")[..., 3]
        np.testing.assert_array_equal(alpha > 0, ids == found[order[0]])
        assert buttons[0].get_attribute("aria-pressed") == "true"
        buttons[0].click()
        assert self.pixels(shown, "#overlay")[..., 3].min() == 255

        opacity = self.find(shown, "#opacity")
        opacity.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 3)
        assert self.find(shown, "#percent").text == "3%"
        assert self.find(shown, "#overlay").value_of_css_property("opacity") == "0.03"

        picture = self.find(shown, "#picture")
        opacity.send_keys(Keys.SHIFT, Keys.TAB)
        assert shown.switch_to.active_element == picture
        picture.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
        assert self.find(shown, "#spoken").get_attribute("textContent") == names[ids[33, 33]]
        picture.send_keys(Keys.SHIFT, *[Keys.ARROW_DOWN] * 9)
        assert self.find(shown, "#tip").text == names[ids[63, 33]]
        assert shown.get_log("browser") == []

    def test_dropping_and_what_is_no_photo(self, shown, scene, tmp_path):
        drop = (
            "const [name, bytes] = arguments, transfer = new DataTransfer();"
            "transfer.items.add(new File([Uint8Array.from(bytes)], name));"
            "document.body.dispatchEvent(new DragEvent('drop',"
            " { dataTransfer: transfer, bubbles: true, cancelable: true }));"
        )
        shown.execute_script(drop, "text.jpg", list(b"this is text"))
        self.wait_for(shown, "#error")
        expected = "The photo cannot be used: not a JPEG or PNG file."
        assert self.find(shown, "#error").text == expected
        assert not self.find(shown, "#result").is_displayed()

        (tmp_path / "large.jpg").write_bytes(bytes(2**25 + 1))
        self.find(shown, "#file").send_keys(str(tmp_path / "large.jpg"))
        self.wait_for(shown, "#error")
        assert "large.jpg is too large: at most 32 MiB" in self.find(shown, "#error").text

        wide = cv2.resize(scene, (256, 128))
        shown.execute_script(drop, "wide.png", list(png(wide)))
        self.wait_for(shown, "#result")
        assert not self.find(shown, "#error").is_displayed()
        assert self.find(shown, "#facts").text == "64 x 32 pixels, of 256 x 128"
        assert "wide.png" in self.find(shown, "#status").text
        (refused,) = shown.get_log("browser")
        assert "status of 400" in refused["message"]
