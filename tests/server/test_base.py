"""A model with an adapter and its base behind one server: each answers to its name, and both are looked after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from running import Running, TalkingRecognizer, running, wait_for

from fake_recognizer import make_bundle
from linnet.errors import ConfigError
from linnet.server.run import check_base

WEIGHTS = "5" * 64


@pytest.fixture
def pair(tmp_path: Path) -> tuple[TalkingRecognizer, TalkingRecognizer]:
    return TalkingRecognizer(tmp_path / "adapted", name="adapted"), TalkingRecognizer(tmp_path / "base", name="base")


@pytest.fixture
def both(pair: tuple[TalkingRecognizer, TalkingRecognizer]) -> Iterator[Running]:
    with running(pair[0], base=pair[1]) as server:
        yield server


def ask(server: Running, wav: bytes, model: str) -> int:
    return server.http.post(
        "/v1/audio/transcriptions", data={"model": model}, files={"file": ("a.wav", wav)}
    ).status_code


def test_both_are_listed_and_the_first_names_its_base(both: Running) -> None:
    adapted, base = both.http.get("/v1/models").json()["data"]
    assert (adapted["id"], adapted["base"], base["id"]) == ("adapted", "base", "base")
    assert "base" not in base and base["aliases"] == [] != adapted["aliases"]
    assert both.http.get("/v1/models/base").json() == base


@pytest.mark.parametrize(("model", "hears"), [("adapted", 0), ("whisper-1", 0), ("base", 1)])
def test_the_name_decides_who_listens(
    both: Running, pair: tuple[TalkingRecognizer, TalkingRecognizer], wav: bytes, model: str, hears: int
) -> None:
    assert ask(both, wav, model) == 200
    assert pair[hears].heard and not pair[1 - hears].heard
    wait_for(lambda: "linnet_model_busy_seconds 0.0\n" not in both.http.get("/metrics").text)  # of both together


def test_another_name_is_404_and_lists_both(both: Running, wav: bytes) -> None:
    answer = both.http.post("/v1/audio/transcriptions", data={"model": "x"}, files={"file": ("a.wav", wav)})
    assert answer.status_code == 404 and "'adapted' and 'base'" in answer.json()["error"]["message"]


def test_a_base_that_has_died_is_not_ready(pair: tuple[TalkingRecognizer, TalkingRecognizer]) -> None:
    with running(pair[0], base=pair[1]) as server:
        assert server.http.get("/readyz").status_code == 200
        assert server.state.base is not None
        server.state.base.drain()
        assert server.http.get("/readyz").status_code == 503
    assert pair[0].closed and pair[1].closed


@pytest.mark.parametrize(
    ("adapted", "base", "name", "says"),
    [
        ({}, {"weights": WEIGHTS}, "base", "carries no adapter"),
        ({"adapter": {"base": WEIGHTS}}, {"weights": WEIGHTS, "adapter": {}}, "base", "an adapter itself"),
        ({"adapter": {"base": WEIGHTS}}, {}, "base", "Convert the checkpoint again"),
        ({"adapter": {"base": WEIGHTS}}, {"weights": "6" * 64}, "base", "not the base of adapted"),
        ({"adapter": {"base": WEIGHTS}}, {"weights": WEIGHTS}, "adapted", "both called adapted"),
    ],
)
def test_a_wrong_base_is_refused(
    tmp_path: Path, adapted: Mapping[str, object], base: Mapping[str, object], name: str, says: str
) -> None:
    one = make_bundle(tmp_path / "one", name="adapted", provenance=adapted)
    two = make_bundle(tmp_path / "two", name=name, provenance=base)
    with pytest.raises(ConfigError, match=says):
        check_base(one, two)


def test_the_right_base_is_accepted(tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "one", name="adapted", provenance={"adapter": {"base": WEIGHTS}})
    check_base(one, make_bundle(tmp_path / "two", name="base", provenance={"weights": WEIGHTS}))
