"""Real photographs for the tests: crops of what scikit-image ships, in a COCO-like layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.data.sample_set import build_sample_set


@pytest.fixture(scope="session")
def sample_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with train2017/ (39 images), val2017/ (5), test2017/ (6) and annotations/; read only."""
    folder = tmp_path_factory.mktemp("sample") / "coco"
    build_sample_set(folder)
    return folder
