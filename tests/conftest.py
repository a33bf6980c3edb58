"""Fixtures that several test folders share: where the recordings and the golden vectors are.

LINNET_SHARED and LINNET_GOLDEN name those folders, relative to the repository root; tests that need one are skipped
where it is absent.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _folder(variable: str, default: str) -> Path:
    folder = (ROOT / os.environ.get(variable, default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"{variable}={folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with recordings, configuration files and tools."""
    return _folder("LINNET_SHARED", "../shared")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the official implementations' vectors, one sub-folder per family."""
    return _folder("LINNET_GOLDEN", "../shared/golden")


@pytest.fixture(scope="session")
def clip() -> Path:
    """A real recording of a few seconds of speech: the first of `samples/`, or else one of the shared ones."""
    samples = sorted((ROOT / "samples").glob("*.flac"))
    return samples[0] if samples else _folder("LINNET_SHARED", "../shared") / "data/single/jfk.flac"
