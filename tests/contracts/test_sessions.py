"""Every ONNX session is opened with the options that keep 8-bit products from overflowing."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import linnet
from linnet.runtime import providers

SOURCE = Path(linnet.__file__).parent


def test_no_other_place_makes_session_options() -> None:
    places = [
        path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if "SessionOptions(" in path.read_text()
    ]
    assert places == ["runtime/providers.py"]


@pytest.mark.parametrize("found", [True, False])
def test_the_slower_kernels_are_taken_where_products_overflow(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "overflows", lambda: found)
    options = providers.session_options(3)
    assert options.intra_op_num_threads == 3
    if found:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):  # not set
            options.get_session_config_entry("session.x64quantprecision")


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="the oracle is /proc/cpuinfo, which names VNNI on Linux on x86 alone",
)
def test_the_answer_is_that_of_the_processor() -> None:
    has_vnni = {"avx512_vnni", "avx_vnni"} & set(Path("/proc/cpuinfo").read_text().split())
    assert providers.overflows() == (not has_vnni)


def test_the_product_that_is_asked_for_is_the_one_in_the_file() -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "int8_product",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, ["m", "k"]),
            helper.make_tensor_value_info("b", TensorProto.INT8, ["k", "n"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["m", "n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert onnx.load(providers.INT8_PRODUCT) == model
