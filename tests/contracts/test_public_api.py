"""The names that users import from `linnet`; adding or removing one is a decision, recorded here and in CHANGELOG."""

from __future__ import annotations

import inspect

import pytest

import linnet

NAMES = ["Codes", "LinnetError", "Segment", "Transcription", "Word", "__version__", "load_codec", "load_model"]


def test_the_public_names_are_these() -> None:
    assert sorted(linnet.__all__) == NAMES
    assert all(getattr(linnet, name) is not None for name in NAMES)


def test_a_name_that_is_not_there_is_an_attribute_error_that_lists_those_that_are() -> None:
    with pytest.raises(AttributeError, match="load_model"):
        linnet.transcripe  # noqa: B018


def test_evaluate_is_a_module_with_a_function_of_that_name() -> None:
    import linnet.evaluate

    assert inspect.ismodule(linnet.evaluate) and inspect.isfunction(linnet.evaluate.evaluate)


def test_load_model_takes_these_parameters() -> None:
    assert list(inspect.signature(linnet.load_model).parameters) == [
        *("name_or_path", "decoder", "threads", "attention", "device", "gpu_layers", "beam_size")
    ]


def test_evaluate_takes_these_parameters() -> None:
    from linnet.evaluate import evaluate

    assert list(inspect.signature(evaluate).parameters) == [
        *("recognizer", "manifest", "noise", "snr_db", "damage", "front_end", "seed", "language", "corpora", "limit"),
        "progress",
    ]
