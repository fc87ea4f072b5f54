"""The web page: its handlers, its server, and the whole of it in a real browser, used as people use it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

import infer_lab
from benchmarks import page_load
from config import DEFAULT_CHECKPOINT
from utils.coloring.hints import dump_hints
from utils.coloring.palette import LIKELY_AB
from utils.coloring.visits import Visits
from utils.coloring.web import Page
from utils.coloring.web_colors import Colorizer
from utils.coloring.web_hints import HintEditor, parse_color
from utils.data.sample_set import load_photo
from utils.images import Picture, read_picture, write_image

gradio = pytest.importorskip("gradio", reason="the page needs requirements-demo.txt")
httpx = pytest.importorskip("httpx", reason="Gradio brings it along")
sync_api = pytest.importorskip("playwright.sync_api", reason="the test of the page needs requirements-dev.txt")
demo_lab = importlib.import_module("demo_lab")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def handlers(tmp_path: Path) -> Page:
    colorizer = Colorizer({"Default": DEFAULT_CHECKPOINT}, torch.device("cpu"))
    (tmp_path / "work" / "pages").mkdir(parents=True)
    return Page(colorizer, Visits(tmp_path / "work"))


def test_folder_stays_where_it_should_whatever_the_browser_calls_itself(handlers: Page) -> None:
    stranger = SimpleNamespace(session_hash="../../elsewhere")
    folder = handlers.visits.folder(stranger)
    assert folder.parent == handlers.visits.work / "pages" and folder.is_dir()
    handlers.visits.close(stranger)
    assert not folder.exists() and (handlers.visits.work / "pages").exists()


def test_add_tells_photographs_of_one_name_apart_and_takes_the_uploads_away(handlers: Page) -> None:
    paths = [
        handlers.visits.work / "uploads" / name
        for name in ("1/a (2).png", "2/a.png", "3/a.png", "4/no.png", "5/a.svg")
    ]
    for number, path in enumerate(paths[:3]):
        write_image(path, Picture(np.full((40 + number, 50, 3), 90, np.uint8), None))
    for path in paths[3:]:
        path.parent.mkdir()
        path.write_bytes(b"no image")
    example = handlers.visits.work / "examples" / "a.png"
    write_image(example, Picture(np.full((70, 50, 3), 90, np.uint8), None))
    someone = SimpleNamespace(session_hash="someone")
    _, choice, *_ = handlers.add([*map(str, paths), str(example)], None, "Default", 1.0, someone)
    photos = handlers.visits.photos(someone)
    heights = {label: read_picture(photo.path).rgb.shape[0] for label, photo in photos.items()}
    assert heights == {"a (2).png": 40, "a.png": 41, "a (3).png": 42, "a (4).png": 70}
    assert choice["value"] == "a (2).png" and example.exists()
    shutil.rmtree(photos["a.png"].path.parent)
    with pytest.raises(gradio.Error, match=r"a.png: No such file"):
        handlers.show("a.png", "Default", 1.0, someone)
    handlers.visits.close(someone)
    assert not any(path.exists() for path in paths[:3]) and example.exists()
    assert not list((handlers.visits.work / "pages").iterdir())
    with pytest.raises(gradio.Error, match=r"a.png: is gone"):
        handlers.show("a.png", "Default", 1.0, someone)


def drop(handlers: Page, name: str, session: str, level: int = 90) -> tuple[Path, SimpleNamespace]:
    """Upload a gray photograph of 240 x 180 pixels to a page, and give the upload and the request."""
    upload = handlers.visits.work / "uploads" / name
    write_image(upload, Picture(np.full((180, 240, 3), level, np.uint8), None))
    request = SimpleNamespace(session_hash=session)
    handlers.add([str(upload)], None, "Default", 1.0, request)
    return upload, request


def test_close_leaves_the_upload_that_another_page_shares(handlers: Page) -> None:
    upload, first = drop(handlers, "1/a.png", "first")
    _, second = drop(handlers, "1/a.png", "second")
    handlers.visits.close(first)
    assert upload.exists() and not handlers.visits.photos(first)
    handlers.show("a.png", "Default", 1.0, second)
    handlers.visits.close(second)
    assert not upload.parent.exists() and not handlers.visits.open


def test_close_removes_what_was_uploaded_and_still_waits(handlers: Page) -> None:
    visits, (first, second) = handlers.visits, (SimpleNamespace(session_hash=name) for name in ("first", "second"))
    paths = [visits.work / "uploads" / name / "a.png" for name in ("own", "shared")]
    private = visits.work / "private.png"
    for path in (*paths, private):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"any")
    outside = visits.work / "uploads" / ".." / "private.png"
    visits.claim([{"path": str(path)} for path in (*paths, outside)], first)
    visits.claim({"path": str(paths[1])}, second)
    visits.claim(None, second)
    visits.close(first)
    assert not paths[0].parent.exists() and paths[1].exists() and private.exists()
    with pytest.warns(UserWarning, match="a.png"):  # the request was on its way
        handlers.add([str(paths[0])], None, "Default", 1.0, first)
    assert not visits.open and not list((visits.work / "pages").iterdir())
    with pytest.raises(gradio.Error, match="drop a photograph first"):
        handlers.pack("Default", 1.0, first)
    visits.close(second)
    assert not paths[1].parent.exists() and not visits.claims
    visits.claim([{"path": str(paths[0])}], second)
    visits.sweep(time.time())  # of what is gone
    assert not visits.claims


def test_close_keeps_a_handler_that_still_runs_from_bringing_the_folder_back(handlers: Page) -> None:
    _, request = drop(handlers, "1/a.png", "someone")
    photo = handlers.visits.photos(request)["a.png"]
    handlers.visits.close(request)
    with pytest.raises((OSError, ValueError)):
        handlers.results(photo, "Default", 1.0)
    assert not list((handlers.visits.work / "pages").iterdir())


def test_sweep_removes_old_uploads_and_pages_that_nobody_uses(handlers: Page) -> None:
    upload, request = drop(handlers, "1/a.png", "someone")
    now = upload.stat().st_mtime
    handlers.visits.sweep(now + 500)
    assert upload.exists()
    empty = handlers.visits.work / "uploads" / "tmp1"
    empty.touch()
    os.utime(empty, (now, now))
    handlers.visits.sweep(now + 700)
    assert not upload.parent.exists() and not empty.exists() and empty.parent.is_dir()
    handlers.show("a.png", "Default", 1.0, request)  # the page has its own copy
    handlers.visits.sweep(now + 3500)
    assert handlers.visits.folder(request).is_dir() and handlers.visits.photos(request)
    handlers.visits.sweep(now + 5000)
    assert not handlers.visits.open and not list((handlers.visits.work / "pages").iterdir())


def test_add_refuses_more_photographs_than_a_page_holds(handlers: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.coloring.web.MAX_PHOTOS", 1)
    drop(handlers, "1/a.png", "someone")
    with pytest.warns(UserWarning, match="at most 1 photographs"):
        _, request = drop(handlers, "2/b.png", "someone")
    assert list(handlers.visits.photos(request)) == ["a.png"]


def test_tap_holds_moves_and_lets_go_of_hints(handlers: Page) -> None:
    _, request = drop(handlers, "1/a.png", "someone")
    photo, editor = handlers.visits.photos(request)["a.png"], HintEditor(handlers)

    def tap(x: int, y: int, color: str = "#2040a0", pick: bool = False) -> list:
        event = SimpleNamespace(index=[x, y])
        return editor.tap("a.png", "Default", 1.0, color, pick, request, event)

    def places() -> list[tuple[float, float, str]]:
        return [(hint.x, hint.y, hint.color) for hint in photo.hints]

    tap(50, 60)
    tap(150, 60, "#a02020")
    assert places() == [(50, 60, "#2040a0"), (150, 60, "#a02020")] and not photo.held
    assert editor.recolor("a.png", "Default", 1.0, "#00ff00", request)[0] == gradio.skip()  # for the next one
    tap(58, 66)  # 10 pixels off, of 240: the hint is meant
    assert photo.held and photo.current == 0 and len(photo.hints) == 2
    editor.recolor("a.png", "Default", 1.0, "rgba(0, 255, 0, 1)", request)
    tap(100, 120)
    assert places() == [(100, 120, "#00ff00"), (150, 60, "#a02020")] and not photo.held
    tap(100, 120)
    tap(100, 120)  # twice: held and let go
    assert not photo.held
    editor.remove("a.png", "Default", 1.0, request)
    assert places() == [(150, 60, "#a02020")]
    editor.clear("a.png", "Default", 1.0, request)
    for expected in ([(150, 60, "#a02020")], [(100, 120, "#00ff00"), (150, 60, "#a02020")]):
        editor.undo("a.png", "Default", 1.0, request)
        assert places() == expected
    assert handlers.update("a.png", "Default", 1.0, request)[0] != gradio.skip()
    for chosen in ("a.png", None):  # nothing to do
        assert handlers.update(chosen, "Default", 1.0, request) == [gradio.skip()] * 4
    for _ in range(5):
        editor.undo("a.png", "Default", 1.0, request)
    assert places() == []
    *_, color, pick = tap(20, 20, pick=True)
    lightness = rgb2lab(np.array([*bytes.fromhex(color[1:])]) / 255)[0]
    assert not pick and places() == [] and abs(lightness - rgb2lab(np.full(3, 90 / 255))[0]) < 1


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Serve the page with two checkpoints, and give its address and the folder that its files lie in."""
    home = tmp_path_factory.mktemp("demo")
    (home / "checkpoints_subset").mkdir()
    (home / "tmp").mkdir()
    shutil.copy(ROOT / "weights" / "G_default.pt", home / "checkpoints_subset" / "G_epoch_030.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "demo_lab.py"), "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(home / "tmp")}
    server = subprocess.Popen(command, cwd=home, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None, "the page ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url).close()
                break
            time.sleep(0.2)
        else:
            pytest.fail("the page does not answer")
        yield url, home / "tmp"
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert not list((home / "tmp").glob("demo_lab_*"))
    finally:
        server.kill()


def test_server_never_shows_what_was_uploaded(address: tuple[str, Path]) -> None:
    url = f"{address[0]}/gradio_api"
    (path,) = httpx.post(f"{url}/upload", files={"files": ("page.html", b"<script>alert(1)</script>")}).json()
    answer = httpx.get(f"{url}/file={path}")
    assert answer.status_code == 403 or answer.headers["content-disposition"].startswith("attachment")


def test_demo_refuses_an_address_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert demo_lab.main(["--port", str(taken.getsockname()[1])]) == 2
    assert demo_lab.main(["--port", "70000"]) == 2
    assert capsys.readouterr().err.count("choose others") == 2


def test_visitors_at_once_get_their_own_photographs_and_leave_nothing(
    address: tuple[str, Path], tmp_path: Path
) -> None:
    photos = [
        [page_load.write_photograph(tmp_path / f"{n}_{m}.jpg", 4 * m + n, 0.02) for m in (0, 1)] for n in range(4)
    ]
    tally = page_load.Tally()
    with ThreadPoolExecutor(4) as pool:
        coming = [
            pool.submit(page_load.visit, address[0], paths, tmp_path / paths[0].stem, tally) for paths in photos
        ]
        for visitor in [future.result() for future in coming]:
            visitor.close()
    assert (len(tally.seconds), tally.refused, tally.foreign) == (8, [], 0)
    assert page_load.files_left(address[1], "pages", 60) == []
    assert not list(address[1].glob("demo_lab_*/uploads/*/*.jpg"))


def test_browsers_that_close_while_they_wait_leave_nothing(address: tuple[str, Path], tmp_path: Path) -> None:
    paths = [page_load.write_photograph(tmp_path / f"{n}.jpg", n, 0.1) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: page_load.leave(address[0], path), paths))
    for part in ("pages", "uploads"):
        assert not [path for path in page_load.files_left(address[1], part, 60) if path.suffix == ".jpg"]


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: sync_api.Browser, address: tuple[str, Path]) -> Iterator[sync_api.Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(address[0])
    page.wait_for_selector("#drop input[type=file]", state="attached")
    yield page
    page.close()


def after(page: sync_api.Page) -> str:
    """Wait for the slider's two pictures and give the address of the colored one."""
    page.wait_for_function("document.querySelectorAll('#sides img[src*=after]').length > 0")
    return page.get_attribute("#sides img[src*=after]", "src")


def wait_for_another(page: sync_api.Page, earlier: str) -> str:
    page.wait_for_function(
        "earlier => { const now = document.querySelector('#sides img[src*=after]'); return now && now.src != earlier "
        "&& now.getAttribute('src') != earlier }",
        arg=earlier,
    )
    return after(page)


def save(page: sync_api.Page, button: str, folder: Path) -> Path:
    """Press a download button, again as long as it points to an earlier result than the one that is shown."""
    page.wait_for_selector(f"{button}:not([disabled])")
    for _ in range(20):
        with page.expect_download() as download:
            page.click(button)
        result = after(page).rpartition("/")[0]
        if download.value.failure() is None and (button == "#archive" or result in download.value.url):
            break
        page.wait_for_timeout(200)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def position(page: sync_api.Page, x: float, y: float) -> dict[str, float]:
    """Give the position on the canvas of a place of the 600 x 400 photograph."""
    box = page.locator("#canvas img").bounding_box()
    scale = min(box["width"] / 600, box["height"] / 400, 1)
    return {"x": box["width"] / 2 + (x - 300) * scale, "y": box["height"] / 2 + (y - 200) * scale}


def test_page_gives_what_infer_lab_gives(page: sync_api.Page, tmp_path: Path) -> None:
    photo = tmp_path / "my cup.png"
    write_image(photo, Picture(load_photo("coffee"), None))
    page.set_input_files("#drop input[type=file]", photo)
    first = after(page)
    colored = read_picture(save(page, "#download", tmp_path)).rgb
    subprocess.run(
        [sys.executable, ROOT / "infer_lab.py", photo, "--device", "cpu", "--output-dir", tmp_path / "outputs"],
        cwd=tmp_path,
        check=True,
    )
    np.testing.assert_array_equal(colored, read_picture(tmp_path / "outputs" / "my cup.png").rgb)

    # The checkpoint: the same weights by another name, so another picture of the same pixels
    page.get_by_label("Default", exact=True).check()
    second = wait_for_another(page, first)
    np.testing.assert_array_equal(read_picture(save(page, "#download", tmp_path)).rgb, colored)

    # Without saturation nothing but the lightness is left
    number = page.locator("#saturation input[type=number]")
    number.fill("0")
    number.press("Enter")
    page.locator("#saturation input[type=range]").dispatch_event("pointerup")
    wait_for_another(page, second)
    gray = read_picture(save(page, "#download", tmp_path)).rgb.astype(int)
    assert np.ptp(gray, axis=2).max() <= 1


def test_parse_color_takes_what_the_picker_gives() -> None:
    assert parse_color("#2040A0") == "#2040a0"
    assert parse_color("rgba(31.6, 64.2, 160, 1)") == parse_color("rgb(32, 64, 160)") == "#2040a0"
    with pytest.raises(gradio.Error, match="is no color"):
        parse_color("blue")


def test_load_names_a_file_of_another_photograph(handlers: Page) -> None:
    example, notes = handlers.visits.work / "examples" / "a.png", handlers.visits.work / "a.json"
    write_image(example, Picture(np.full((40, 50, 3), 90, np.uint8), None))
    someone = SimpleNamespace(session_hash="someone")
    handlers.add([str(example)], None, "Default", 1.0, someone)
    for text, reason in (("{", "a.json: not a readable file"), (dump_hints([], 9, 9), "is 50x40, but a.json is for")):
        notes.write_text(text)
        with pytest.raises(gradio.Error, match=reason):
            HintEditor(handlers).load("a.png", "Default", 1.0, str(notes), someone)
        assert not notes.exists()


def drop_cup(page: sync_api.Page, folder: Path) -> tuple[str, np.ndarray]:
    """Drop the photograph of the cup on the page; gives its result's address and pixels."""
    photo = folder / "cup.png"
    write_image(photo, Picture(load_photo("coffee"), None))
    page.set_input_files("#drop input[type=file]", photo)
    return after(page), read_picture(save(page, "#download", folder)).rgb


def test_hint_on_the_page_colors_its_place_and_undo_gives_the_earlier_pixels(
    page: sync_api.Page, tmp_path: Path
) -> None:
    first, plain = drop_cup(page, tmp_path)
    page.click("#hints > button")
    page.click("#color button")
    page.locator("#color input").fill("#2040a0")
    page.keyboard.press("Enter")
    page.locator("#canvas img").click(position=position(page, 430, 40))
    second = wait_for_another(page, first)
    blue = read_picture(save(page, "#download", tmp_path)).rgb
    notes = save(page, "#save", tmp_path)
    hints = json.loads(notes.read_text())
    assert (hints["width"], hints["height"], len(hints["hints"])) == (600, 400, 1)
    hint = hints["hints"][0]
    assert abs(hint["x"] - 430) <= 2 and abs(hint["y"] - 40) <= 2 and hint["color"] == "#2040a0"
    place = slice(hint["y"] - 4, hint["y"] + 5), slice(hint["x"] - 4, hint["x"] + 5)
    wanted = rgb2lab(np.array([0x20, 0x40, 0xA0]) / 255)[1:]
    distances = [np.linalg.norm(rgb2lab(rgb[place])[:, :, 1:].mean((0, 1)) - wanted) for rgb in (plain, blue)]
    assert distances[0] > 60 and distances[1] < 25, distances  # CIELAB units

    page.click("#undo")
    third = wait_for_another(page, second)
    np.testing.assert_array_equal(read_picture(save(page, "#download", tmp_path)).rgb, plain)

    with page.expect_file_chooser() as chooser:
        page.click("#load")
    chooser.value.set_files(notes)
    wait_for_another(page, third)
    np.testing.assert_array_equal(read_picture(save(page, "#download", tmp_path)).rgb, blue)
    command = [str(tmp_path / "cup.png"), str(DEFAULT_CHECKPOINT), "--hints", str(notes), "--device", "cpu"]
    assert infer_lab.main([*command, "--output-dir", str(tmp_path / "outputs")]) == 0
    np.testing.assert_array_equal(read_picture(tmp_path / "outputs" / "cup.png").rgb, blue)

    page.locator("#canvas img").click(position=position(page, 430, 40))
    page.wait_for_selector("#canvas >> text=Tap where the marked hint belongs")
    if not page.locator("#color input").is_visible():
        page.click("#color button")
    page.locator("#color input").fill("#20a040")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#table').innerText.includes('#20a040')")


def test_taps_while_the_page_is_still_at_work_are_taken(page: sync_api.Page, tmp_path: Path) -> None:
    drop_cup(page, tmp_path)
    page.click("#hints > button")
    page.click("#color button")
    page.locator("#color input").fill("#a03a1a")  # the first tap ends it: the picture is then at work already
    for x, y in ((150, 320), (60, 330)):
        page.locator("#canvas img").click(position=position(page, x, y))
    page.wait_for_function("document.querySelector('#table').innerText.split('#a03a1a').length == 3")


def test_tap_on_a_picture_that_is_still_loading_is_taken(page: sync_api.Page, tmp_path: Path) -> None:
    drop_cup(page, tmp_path)
    page.click("#hints > button")
    page.wait_for_function("document.querySelector('#canvas img')?.complete")
    where = [position(page, x, y) for x, y in ((150, 320), (60, 330))]
    held: list[sync_api.Route] = []
    page.route("**/canvas.jpg", lambda route: held.append(route), times=1)
    page.locator("#canvas img").click(position=where[0])
    page.wait_for_function("!document.querySelector('#canvas img').complete")
    page.locator("#canvas img").click(position=where[1])
    held[0].continue_()
    page.wait_for_function("document.querySelector('#table').innerText.split('#78a8d8').length == 3")


def test_tap_places_moves_recolors_and_removes_a_hint_on_a_phone(
    browser: sync_api.Browser, address: tuple[str, Path], tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.set_default_timeout(120_000)
    page.goto(address[0])
    page.wait_for_selector("#drop input[type=file]", state="attached")
    page.tap("#hints > button")
    page.tap("#undo")
    page.wait_for_selector("text=drop a photograph first")
    assert page.locator("#canvas >> text=Error").count() == 0
    newest, plain = drop_cup(page, tmp_path)

    def tap(x: float, y: float) -> None:
        page.locator("#canvas img").tap(position=position(page, x, y))

    def result() -> np.ndarray:
        nonlocal newest
        newest = wait_for_another(page, newest)
        return read_picture(save(page, "#download", tmp_path)).rgb

    def distance(rgb: np.ndarray, x: int, y: int, color: str) -> float:
        """Give the distance in ab between the mean around a place and a color, in CIELAB units."""
        wanted = rgb2lab(np.array([*bytes.fromhex(color[1:])]) / 255)[1:]
        there = rgb2lab(rgb[y - 4 : y + 5, x - 4 : x + 5])[:, :, 1:].mean((0, 1))
        return float(np.linalg.norm(there - wanted))

    tap(430, 40)  # the table, in the color of the sky, which is preset
    placed = result()
    assert distance(plain, 430, 40, "#78a8d8") > 40 and distance(placed, 430, 40, "#78a8d8") < 8

    page.tap("#likely3")
    page.wait_for_function("document.querySelector('#table').innerText.includes('#78a8d8') == false")
    likely = result()
    (hint,) = json.loads(save(page, "#save", tmp_path).read_text())["hints"]
    assert 50 < rgb2lab(plain[38:43, 428:433])[:, :, 0].mean() < 60
    ab = rgb2lab(np.array([*bytes.fromhex(hint["color"][1:])]) / 255)[1:]
    np.testing.assert_allclose(ab, LIKELY_AB[5][3], atol=1)
    assert distance(likely, 430, 40, hint["color"]) < 8

    page.tap("#undo")
    np.testing.assert_array_equal(result(), placed)

    tap(430, 40)  # takes hold of it
    page.wait_for_selector("#canvas >> text=Tap where the marked hint belongs")
    tap(150, 60)
    moved = result()
    (hint,) = json.loads(save(page, "#save", tmp_path).read_text())["hints"]
    assert abs(hint["x"] - 150) <= 3 and abs(hint["y"] - 60) <= 3 and hint["color"] == "#78a8d8"
    assert distance(moved, 150, 60, "#78a8d8") < 8

    page.tap("#remove")
    np.testing.assert_array_equal(result(), plain)
    page.close()


def test_closing_the_page_before_the_first_colors_removes_the_upload(
    browser: sync_api.Browser, address: tuple[str, Path], tmp_path: Path
) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(address[0])
    page.wait_for_selector("#drop input[type=file]", state="attached")
    write_image(tmp_path / "soon gone.png", Picture(load_photo("coffee"), None))
    with page.expect_response("**/gradio_api/run/*") as claim:  # what is not queued
        page.set_input_files("#drop input[type=file]", tmp_path / "soon gone.png")
    assert claim.value.ok and list(address[1].rglob("soon*gone.png"))
    page.close()
    for _ in range(300):
        if not list(address[1].rglob("soon*gone*")):
            break
        time.sleep(0.1)
    assert not list(address[1].rglob("soon*gone*"))


def test_slider_moves_between_the_two_pictures(page: sync_api.Page) -> None:
    page.get_by_role("button", name="chelsea").click()
    after(page)
    box = page.locator("#sides img").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    shots = []
    for share in (0.1, 0.9):
        handle = page.locator("#sides [role=slider], #sides .handle, #sides .outer").first.bounding_box()
        page.mouse.move(handle["x"] + handle["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + share * box["width"], middle, steps=5)
        page.mouse.up()
        page.wait_for_timeout(500)
        pixels = cv2.imdecode(np.frombuffer(page.locator("#sides").screenshot(), np.uint8), cv2.IMREAD_COLOR)
        shots.append(np.ptp(pixels.astype(int), axis=2).mean())
    assert abs(shots[0] - shots[1]) > 1, shots  # mostly the one, mostly the other


def test_several_photographs_come_back_in_their_own_formats(
    page: sync_api.Page, address: tuple[str, Path], tmp_path: Path
) -> None:
    kinds = {"a.jpg": np.uint8, "b.tif": np.uint16, "c.webp": np.uint8}
    for name, dtype in kinds.items():
        rgb = load_photo("chelsea")[: 100 + 10 * len(name)].astype(dtype)
        write_image(tmp_path / name, Picture(rgb * (257 if dtype == np.uint16 else 1), None))
    (tmp_path / "broken.png").write_bytes(b"no image")
    page.set_input_files("#drop input[type=file]", [*(tmp_path / name for name in kinds), tmp_path / "broken.png"])
    page.wait_for_selector("text=broken.png: not an image")
    after(page)
    page.click("#all")
    archive = save(page, "#archive", tmp_path)
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == sorted(kinds)
        file.extractall(tmp_path / "back")
    for name, dtype in kinds.items():
        before, back = (read_picture(folder / name).rgb for folder in (tmp_path, tmp_path / "back"))
        assert back.dtype == dtype and back.shape == before.shape

    # Closing the page removes all of it
    left = [path for path in address[1].rglob("*") if path.is_file() and re.search("chelsea|coffee|a.jpg", path.name)]
    assert left
    page.close()
    for _ in range(100):
        if not [path for path in address[1].rglob("*.jpg") if path.is_file()]:
            break
        time.sleep(0.3)
    assert not [path for path in address[1].rglob("*.jpg") if path.is_file()]
