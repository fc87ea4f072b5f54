"""A disk that is full, or a folder that cannot be written: one line, exit code 2, and what was there before stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.faults import ROOT, Subject, check_whole, files_in, subjects
from utils.files import write_bytes
from utils.run import UserError

resource = pytest.importorskip("resource")  # not on Windows


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return subjects(tmp_path_factory.mktemp("disk"))


def run_with_limit(subject: Subject, folder: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """Run a script that can write no file of more than `limit` bytes."""

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(subject.command(folder), cwd=ROOT, preexec_fn=set_limit, capture_output=True, text=True)


def test_scripts_say_in_one_line_that_the_disk_is_full(scripts: list[Subject], tmp_path: Path) -> None:
    for subject in scripts:
        done = run_with_limit(subject, tmp_path / subject.name, 2000)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(errors) == 1, done.stderr
        assert "cannot be written (File too large); make room" in errors[0]
        assert "Traceback" not in done.stderr
        for path in files_in(tmp_path / subject.name):
            check_whole(path)
        assert not list((tmp_path / subject.name).rglob("*.tmp"))


def test_scripts_name_a_folder_that_cannot_be_made(scripts: list[Subject], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for subject in scripts:
        done = subprocess.run(subject.command(tmp_path / "file"), cwd=ROOT, capture_output=True, text=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(errors) == 1 and str(tmp_path / "file") in errors[0], done.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_write_bytes_names_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=str(tmp_path)):
        write_bytes(tmp_path / "file", b"")


def test_write_bytes_keeps_the_earlier_file_where_there_is_no_room(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"file: cannot be written \(File too large\); make room"):
            write_bytes(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
