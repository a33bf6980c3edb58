"""Downloads from a hub that breaks off, lies and corrupts: a file that has its name is whole, or there is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from broken_hub import COMMIT, NAME, Hub, running
from linnet.errors import DownloadError
from linnet.hub.download import download
from linnet.hub.repository import Repository, open_repository

WEIGHTS = "model.safetensors"
SIZE = 300_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A repository of weights, a small configuration, and files that a conversion does not need."""
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(np.random.default_rng(0).bytes(SIZE))
    (folder / "config.json").write_text('{"model_type": "qwen3_asr"}')
    (folder / "README.md").write_text("not needed")
    (folder / "pytorch_model.bin").write_bytes(b"pickles are not wanted")
    with running(Hub(folder)) as served:
        for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(variable, served.url + "/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def opened(hub_name: str = "hf") -> Repository:
    return open_repository(NAME, hub_name, pause=lambda seconds: None)  # type: ignore[arg-type]


def fetch(hub: Hub, out: Path, pauses: list[float] | None = None) -> None:
    repository = opened()
    waits = pauses if pauses is not None else []
    download((*repository.small, *repository.weights), out, token=repository.token, pause=waits.append)


def same(hub: Hub, out: Path) -> bool:
    return (out / WEIGHTS).read_bytes() == (hub.folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("hub_name", ["hf", "modelscope"])
def test_what_a_conversion_needs_comes_over_whole(hub: Hub, tmp_path: Path, hub_name: str) -> None:
    repository = opened(hub_name)
    assert [file.name for file in repository.weights] == [WEIGHTS]
    assert [file.name for file in repository.small] == ["config.json"]
    if hub_name == "hf":
        assert repository.revision == COMMIT and repository.licence == "apache-2.0"
        assert repository.small[0].git_sha1 and repository.weights[0].sha256
    heard: list[tuple[float, float]] = []
    download(
        (*repository.small, *repository.weights), tmp_path / "out", progress=lambda done, all: heard.append((done, all))
    )
    assert same(hub, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", WEIGHTS]
    done = [have for have, _ in heard]
    assert done == sorted(done) and heard[-1] == (repository.size_bytes, repository.size_bytes)


def test_a_connection_that_breaks_off_is_continued_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 100_000
    pauses: list[float] = []
    fetch(hub, tmp_path / "out", pauses)
    assert same(hub, tmp_path / "out")
    assert [asked for name, asked, _ in hub.seen if name == WEIGHTS] == [None, "bytes=100000-", "bytes=200000-"]
    assert len(pauses) == 2 and pauses == sorted(pauses)  # patience grows


def test_a_second_run_continues_the_first(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 20_000
    with pytest.raises(DownloadError, match=r"stopped after 100000 of 300000 bytes.*same command continues"):
        fetch(hub, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", WEIGHTS + ".part"]
    hub.break_after = None
    hub.seen.clear()
    fetch(hub, tmp_path / "out")
    assert hub.seen == [(WEIGHTS, "bytes=100000-", None)] and same(hub, tmp_path / "out")
    hub.seen.clear()
    fetch(hub, tmp_path / "out")
    assert hub.seen == []


def test_a_server_that_cannot_continue_starts_again(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / (WEIGHTS + ".part")).write_bytes((hub.folder / WEIGHTS).read_bytes()[:1000])
    hub.ignore_ranges = True
    fetch(hub, tmp_path / "out")
    assert same(hub, tmp_path / "out")


def test_a_server_that_continues_elsewhere_is_not_believed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / (WEIGHTS + ".part")).write_bytes((hub.folder / WEIGHTS).read_bytes()[:1000])
    hub.wrong_range = True
    fetch(hub, tmp_path / "out")  # without the part there is no range to get wrong
    assert same(hub, tmp_path / "out")


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)])
def test_a_damaged_part_is_fetched_again(hub: Hub, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / (WEIGHTS + ".part")).write_bytes(part)
    fetch(hub, tmp_path / "out")
    assert same(hub, tmp_path / "out")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_corrupted_bytes_are_never_kept(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.corrupt[name] = 9
    with pytest.raises(DownloadError, match=r"sent other data than its listing promises: SHA\d+ .*It was deleted"):
        fetch(hub, tmp_path / "out")
    assert not (tmp_path / "out" / name).exists() and not (tmp_path / "out" / (name + ".part")).exists()


def test_a_file_altered_after_the_download_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "out")
    (tmp_path / "out" / WEIGHTS).write_bytes(b"\0" * SIZE)
    fetch(hub, tmp_path / "out")
    assert same(hub, tmp_path / "out")


@pytest.mark.parametrize(("lie", "message"), [
    ({"length_lie": 1}, "offers 300001 bytes, the listing says 300000"),
    ({"length_lie": -1}, "offers 299999 bytes"),
    ({"listed_lie": 5}, "offers .* bytes, the listing says"),
    ({"listed_lie": -5}, "offers .* bytes, the listing says"),
])  # fmt: skip
def test_lies_about_sizes(hub: Hub, tmp_path: Path, lie: dict[str, int], message: str) -> None:
    for key, value in lie.items():
        setattr(hub, key, value)
    repository = opened()
    with pytest.raises(DownloadError, match=message):
        download(repository.weights, tmp_path / "out", pause=lambda seconds: None)
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_a_passing_overload_is_waited_for_and_a_lasting_one_named(hub: Hub, tmp_path: Path) -> None:
    hub.statuses = [503, 429]
    fetch(hub, tmp_path / "out")
    assert same(hub, tmp_path / "out")
    hub.statuses = [503] * 99
    with pytest.raises(DownloadError, match=r"after 5 tries: HTTP 503.*mirror is set with HF_ENDPOINT"):
        opened()


@pytest.mark.parametrize(("status", "message"), [(401, "set HF_TOKEN"), (403, "conditions"), (404, "no such model")])
def test_refusals_say_what_to_do_and_are_not_repeated(hub: Hub, status: int, message: str) -> None:
    hub.statuses = [status]
    with pytest.raises(DownloadError, match=message):
        opened()
    assert hub.statuses == []


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    with pytest.raises(DownloadError, match=r"cannot be reached after 5 tries.*--source modelscope"):
        opened()
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(DownloadError, match="is no web address"):
        opened()


def test_a_login_page_is_not_a_listing(hub: Hub) -> None:
    hub.login_page = True
    with pytest.raises(DownloadError, match=r"did not answer with JSON but with b'<html>.*proxy"):
        opened()


@pytest.mark.parametrize("listing", [
    [1],
    {"siblings": 3},
    {"siblings": [{"rfilename": WEIGHTS}]},  # no size, no checksum
    {"siblings": [{"rfilename": WEIGHTS, "size": 5, "blobId": "not hexadecimal"}]},
    {"siblings": [{"rfilename": WEIGHTS, "size": 5, "lfs": {"sha256": None}}]},
])  # fmt: skip
def test_a_listing_without_sizes_and_checksums_is_refused(hub: Hub, listing: object) -> None:
    hub.listing = listing
    with pytest.raises(DownloadError, match=r"expected an object|did not answer as a hub does"):
        opened()


@pytest.mark.parametrize("names", [["model.gguf", "README.md"], ["../model.safetensors"], ["sub/model.safetensors"]])
def test_a_repository_without_weights_of_its_own(hub: Hub, names: list[str]) -> None:
    hub.listing = {"siblings": [{"rfilename": name, "size": 5, "blobId": "0" * 40} for name in names]}
    with pytest.raises(DownloadError, match=r"has no model\.safetensors; it has .*original checkpoint"):
        opened()


@pytest.mark.parametrize("name", ["nano", "../../etc/passwd", "a/b/c", "a/b?x", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(DownloadError, match="organisation/model"):
        open_repository(name)


def test_the_token_stays_with_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.redirect_to = hub.url.replace("127.0.0.1", "localhost")  # another origin
    fetch(hub, tmp_path / "out")
    assert same(hub, tmp_path / "out")
    tokens = [authorization for name, _, authorization in hub.seen if name == WEIGHTS]
    assert tokens == ["Bearer secret", None]


def test_a_full_disk_is_named_before_the_first_byte(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(tmp_path)
    repository = opened()
    huge = [type(file)(**{**vars(file), "size_bytes": free.f_bavail * free.f_frsize + 10**10})
            for file in repository.weights]  # fmt: skip
    hub.seen.clear()
    with pytest.raises(DownloadError, match=r"free, the download needs .* GB more.*LINNET_HOME"):
        download(huge, tmp_path / "out")
    assert hub.seen == []


def test_a_disk_that_fills_up_on_the_way(hub: Hub, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full, where every write fails for want of space, is a file of Linux")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / (WEIGHTS + ".part")).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"disk is full.*No space left.*run the same command again"):
        fetch(hub, tmp_path / "out")
    assert not (tmp_path / "out" / WEIGHTS).exists()
    (tmp_path / "out" / (WEIGHTS + ".part")).unlink()
    fetch(hub, tmp_path / "out")
    assert same(hub, tmp_path / "out")


def test_ctrl_c_keeps_the_part_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    repository = opened()

    def stop(done: float, total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(repository.weights, tmp_path / "out", progress=stop)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [WEIGHTS + ".part"]
    download(repository.weights, tmp_path / "out")
    assert same(hub, tmp_path / "out")
