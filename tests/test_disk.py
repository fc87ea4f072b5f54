"""A full disk, a folder that cannot be written or is in use: one line, exit code 2, and what was there stays."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import ROOT, Subject, check_whole, files_in, subjects
from utils import run
from utils.files import write_bytes
from utils.images import Picture, write_large
from utils.run import UserError

resource = pytest.importorskip("resource")  # not on Windows


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return subjects(tmp_path_factory.mktemp("disk"))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes: to what writes, as a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def run_in_process(subject: Subject, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a script without workers and give its one line of error."""
    workers = "0" if subject.name.startswith("train") else "1"
    script = importlib.import_module(subject.name.removesuffix(".py"))
    code = script.main([*subject.arguments, "--num-workers", workers, subject.output_flag, str(folder)])
    printed = capsys.readouterr().err
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and "Traceback" not in printed, printed
    return errors[0]


def test_scripts_say_in_one_line_that_the_disk_is_full(scripts, tmp_path, capsys) -> None:
    for subject in scripts:
        folder = tmp_path / subject.name
        with file_size_limit(500):
            error = run_in_process(subject, folder, capsys)
        assert f"error: {folder}" in error and "cannot be written (File too large); free some space" in error
        for path in files_in(folder):
            check_whole(path)
        assert not list(folder.rglob("*.tmp"))


def test_full_shared_memory_is_named_instead_of_waited_for(scripts, tmp_path) -> None:
    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # holds for /dev/shm as well

    command = [sys.executable, *scripts[0].command(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=set_limit, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: shared memory: " in done.stderr and "enlarge /dev/shm, or give --num-workers 0" in done.stderr


def test_scripts_name_a_folder_that_cannot_be_made(scripts, tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    for subject in scripts:
        assert str(tmp_path / "file") in run_in_process(subject, tmp_path / "file" / "out", capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_second_run_on_a_folder_is_refused_with_the_name_of_the_first(scripts, tmp_path, capsys, monkeypatch) -> None:
    ends = {"train_vgg.py": "vgg", "cache_lab.py": "train2017"}  # below the folder that is named
    folders = [tmp_path / subject.name / ends.get(subject.name, "") for subject in scripts]
    code = "import sys; from pathlib import Path; from utils.run import hold; [hold(Path(p)) for p in sys.argv[1:]]"
    command = [sys.executable, "-c", f"{code}; print('held', flush=True); input()", *map(str, folders)]
    first = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        monkeypatch.setattr(run, "LOCK_SECONDS", 0.1)
        for subject, folder in zip(scripts, folders, strict=True):
            error = run_in_process(subject, tmp_path / subject.name, capsys)
            assert f"error: {folder}: python -c " in error and f"(process {first.pid}) is writing there" in error
        assert not list(tmp_path.iterdir())
    finally:
        first.kill()
        first.communicate()
    run.hold(folders[0])  # free again


def test_write_bytes_names_a_folder_without_permission() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may write anywhere, "nobody" may not
        try:
            with pytest.raises(PermissionError, match=name):
                write_bytes(folder / "file", b"")
        finally:
            os.seteuid(user)
        assert not list(folder.iterdir())
        folder.chmod(0o755)


def test_write_bytes_keeps_the_earlier_file_where_there_is_no_room(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"before")
    with (
        file_size_limit(1000),
        pytest.raises(UserError, match=r"file: cannot be written \(File too large\); free some space"),
    ):
        write_bytes(path, bytes(2000))
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_write_large_keeps_the_earlier_file_where_there_is_no_room(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    picture = Picture(np.random.default_rng(0).integers(0, 65535, (40, 50, 3), np.uint16), None)
    write_large(path, picture)
    before = path.read_bytes()
    for size in (0, 1, 4096, len(before) - 4097, len(before) - 8, len(before) - 1):
        with (
            file_size_limit(size),
            pytest.raises(UserError, match=r"cannot be written \(File too large\); free some space"),
        ):
            write_large(path, picture)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
