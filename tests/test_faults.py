"""A short form of `benchmarks.faults`: every script is killed at random moments and run again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks.faults import subjects, torment

KILLS = 2  # of each script


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_killed_scripts_end_as_undisturbed_ones_when_they_are_run_again(tmp_path: Path) -> None:
    for subject in subjects(tmp_path):
        killed, failures = torment(subject, KILLS, tmp_path / subject.name, random.Random(1))
        assert killed <= KILLS and not failures
