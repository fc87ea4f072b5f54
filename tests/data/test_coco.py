from __future__ import annotations

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.data import coco
from utils.data.coco import Part, main

FILES = {"val2017/000000000001.jpg": b"\x01" * 30_000, "val2017/000000000002.jpg": b"\x02" * 20_000}


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


class Mirror(http.server.ThreadingHTTPServer):
    """Loopback server of one archive, with Range requests.

    Attributes:
        archive: what lies at /zips/val2017.zip.
        cuts: after how many bytes each of the next answers is cut.
        cut_all: after how many bytes every answer is cut, or None.
        ranges: whether Range requests are obeyed.
        redirects: where an address sends the client to.
        requested: the Range header of every request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.archive = zip_bytes(FILES)
        self.cuts: list[int] = []
        self.cut_all: int | None = None
        self.ranges = True
        self.redirects: dict[str, str] = {}
        self.requested: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requested.append(wanted)
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        if self.path != "/zips/val2017.zip":
            self.send_error(404)
            return
        start, size = 0, len(self.server.archive)
        if wanted and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else self.server.cut_all
        self.wfile.write(self.server.archive[start:] if cut is None else self.server.archive[start : start + cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    for proxy in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(coco, "RETRY_SECONDS", 0.0)
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        publish(server, monkeypatch, server.archive)
        yield server
        server.shutdown()
        thread.join()


def publish(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
    """Serve `archive` as the official one."""
    mirror.archive = archive
    part = Part("zips/val2017.zip", hashlib.md5(archive).hexdigest(), "*.jpg", 2)
    monkeypatch.setitem(coco.PARTS, "val2017", part)


def get(mirror: Mirror, root: Path, *flags: str) -> int:
    return main(["--parts", "val2017", "--data-root", str(root), "--base-url", mirror.url, *flags])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_complete(root: Path) -> None:
    assert names_in(root) == ["val2017"]
    assert {f"val2017/{path.name}": path.read_bytes() for path in (root / "val2017").iterdir()} == FILES


def last_error(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_main_downloads_and_unpacks(mirror: Mirror, tmp_path: Path) -> None:
    assert get(mirror, tmp_path / "new" / "coco") == 0
    assert_complete(tmp_path / "new" / "coco")
    assert mirror.requested == [None]


def test_main_skips_what_is_complete(mirror: Mirror, tmp_path: Path) -> None:
    assert get(mirror, tmp_path) == 0
    assert get(mirror, tmp_path) == 0
    assert len(mirror.requested) == 1


def test_main_keeps_zips_and_reads_them_again(mirror: Mirror, tmp_path: Path) -> None:
    assert get(mirror, tmp_path, "--keep-zips") == 0
    assert names_in(tmp_path) == ["val2017", "val2017.zip"]
    for path in (tmp_path / "val2017").iterdir():
        path.unlink()
    assert get(mirror, tmp_path) == 0
    assert_complete(tmp_path)
    assert len(mirror.requested) == 1


def test_main_goes_on_after_cut_connections(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [1_000, 0, 5_000]
    assert get(mirror, tmp_path) == 0
    assert_complete(tmp_path)
    assert mirror.requested == [None, "bytes=1000-", "bytes=1000-", "bytes=6000-"]


def test_main_goes_on_from_an_earlier_run(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "val2017.zip.part").write_bytes(mirror.archive[:7_000])
    assert get(mirror, tmp_path) == 0
    assert_complete(tmp_path)
    assert mirror.requested == ["bytes=7000-"]


def test_main_takes_a_whole_part_file(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "val2017.zip.part").write_bytes(mirror.archive)
    assert get(mirror, tmp_path) == 0
    assert_complete(tmp_path)


def test_main_starts_anew_when_the_part_file_is_too_long(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "val2017.zip.part").write_bytes(mirror.archive + b"more")
    assert get(mirror, tmp_path) == 0
    assert_complete(tmp_path)


def test_main_starts_anew_where_the_server_knows_no_ranges(mirror: Mirror, tmp_path: Path) -> None:
    mirror.ranges = False
    (tmp_path / "val2017.zip.part").write_bytes(b"x" * 7_000)
    assert get(mirror, tmp_path) == 0
    assert_complete(tmp_path)


def test_main_gives_up_on_a_file_that_stays_short(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.ranges, mirror.cut_all = False, 9_000
    assert get(mirror, tmp_path) == 2
    assert f"9,000 of {len(mirror.archive):,} bytes" in last_error(capsys)
    assert names_in(tmp_path) == ["val2017.zip.part"]
    assert len(mirror.requested) == 1 + coco.TRIES  # the first brought something


def test_main_removes_a_file_with_another_hash(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.archive = zip_bytes({name: data[::-1] + b"!" for name, data in FILES.items()})
    assert get(mirror, tmp_path) == 2
    assert "MD5" in last_error(capsys)
    assert names_in(tmp_path) == []


def test_main_leaves_an_archive_of_another_hash_alone(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "val2017.zip").write_bytes(b"mine")
    assert get(mirror, tmp_path) == 2
    assert "val2017.zip: its MD5" in last_error(capsys)
    assert names_in(tmp_path) == ["val2017.zip"]


@pytest.mark.parametrize(
    "name", ["../outside.jpg", "val2017/../../outside.jpg", "/outside.jpg", "..\\outside.jpg", "C:\\outside.jpg"]
)
def test_main_refuses_paths_that_lead_outside(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    publish(mirror, monkeypatch, zip_bytes({**FILES, name: b"x"}))
    assert get(mirror, tmp_path / "coco") == 2
    assert "outside" in last_error(capsys)
    assert names_in(tmp_path / "coco") == ["val2017.zip"]
    assert names_in(tmp_path) == ["coco"]


@pytest.mark.parametrize("archive", [b"no zip at all", zip_bytes({"val2017/1.jpg": b"one of two"})])
def test_main_refuses_an_archive_without_the_files(
    mirror: Mirror,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    archive: bytes,
) -> None:
    publish(mirror, monkeypatch, archive)
    assert get(mirror, tmp_path) == 2
    assert "val2017.zip" in last_error(capsys)
    assert names_in(tmp_path) == ["val2017.zip"]


def test_main_refuses_an_incomplete_folder(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "1.jpg").touch()
    assert get(mirror, tmp_path) == 2
    assert "1 of 2" in last_error(capsys)
    assert mirror.requested == []


def test_main_names_the_address_of_a_missing_file(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(mirror, tmp_path, "--parts", "test2017") == 2
    error = last_error(capsys)
    assert f"{mirror.url}/zips/test2017.zip: HTTP 404" in error and "--base-url" in error
    assert len(mirror.requested) == 1


def test_main_follows_a_redirect_and_goes_on_after_a_cut_there(mirror: Mirror, tmp_path: Path) -> None:
    mirror.redirects = {"/old/zips/val2017.zip": f"{mirror.url}/zips/val2017.zip"}
    mirror.cuts = [4_000]
    assert get(mirror, tmp_path, "--base-url", f"{mirror.url}/old") == 0
    assert_complete(tmp_path)
    assert mirror.requested == [None, None, "bytes=4000-", "bytes=4000-"]


@pytest.mark.parametrize("target", ["/zips/val2017.zip", "file:///etc/passwd", "/zips/nothing.zip"])
def test_main_refuses_a_redirect_that_leads_nowhere(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    mirror.redirects = {"/zips/val2017.zip": target}
    assert get(mirror, tmp_path) == 2
    assert f"{mirror.url}/zips/val2017.zip: HTTP " in last_error(capsys)
    assert names_in(tmp_path) == []


def test_main_takes_an_error_page_for_no_archive(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.archive = b"<html><body>Sign in to this network</body></html>"  # with code 200
    assert get(mirror, tmp_path) == 2
    assert "MD5" in last_error(capsys) and names_in(tmp_path) == []


def test_main_keeps_what_came_before_the_disk_was_full(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert get(mirror, tmp_path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "val2017.zip.part: cannot be written (File too large)" in last_error(capsys)
    assert (tmp_path / "val2017.zip.part").read_bytes() == mirror.archive[:10_000]
    assert get(mirror, tmp_path) == 0
    assert_complete(tmp_path)


def test_main_says_that_there_is_no_network(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(mirror, tmp_path, "--base-url", "http://127.0.0.1:9") == 2
    assert "check the network" in last_error(capsys)


def test_main_refuses_an_address_that_is_not_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base-url", "file:///etc", "--data-root", str(tmp_path)]) == 2
    assert "--base-url" in last_error(capsys)
