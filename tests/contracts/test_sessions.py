"""Every ONNX session is opened with the options that keep 8-bit products from overflowing."""

from __future__ import annotations

from pathlib import Path

import linnet
from linnet.runtime.providers import session_options

SOURCE = Path(linnet.__file__).parent


def test_no_other_place_makes_session_options() -> None:
    places = [
        path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if "SessionOptions(" in path.read_text()
    ]
    assert places == ["runtime/providers.py"]


def test_overflow_is_kept_out() -> None:
    assert session_options(1).get_session_config_entry("session.x64quantprecision") == "1"
    assert session_options(3).intra_op_num_threads == 3
