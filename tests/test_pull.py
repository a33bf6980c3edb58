"""`linnet pull`: whatever happens on the way, a model in the cache is whole, and what is not whole is no model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linnet
from broken_hub import COMMIT, NAME, Hub, running
from linnet import cli
from linnet import pull as module
from linnet.bundle import read_bundle, verify_files, write_parity
from linnet.errors import CheckpointError, ConfigError, DownloadError, ExportError, LinnetError
from linnet.pull import Pulled, pull
from linnet.runtime.loader import models_folder
from tiny_checkpoint import random_arrays, write_checkpoint, write_safetensors

MODEL = "tiny-asr"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own; downloads that would go to a real hub fail at once."""
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1,localhost")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    return tmp_path / "home"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "Tiny-ASR")


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running(Hub(checkpoint)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.url)
        yield served


def quick(model: str, **options: Any) -> Pulled:
    """A pull without the comparison, which tests/export/test_verify.py covers."""
    return pull(model, **{"verified": False, **options})


def models() -> list[str]:
    """Everything in the folder of models but locks: bundles, and what an interrupted pull may have left."""
    return sorted(path.name for path in models_folder().glob("*") if not path.name.endswith(".lock"))


def test_a_name_becomes_a_model_that_is_found_by_its_name(hub: Hub, home: Path) -> None:
    heard: list[str] = []
    pulled = pull(NAME, progress=lambda stage, done, total: heard.append(stage))
    assert list(dict.fromkeys(heard)) == ["download", "convert", "verify"]
    assert pulled.new and pulled.bundle.path == home / "models" / MODEL and pulled.checkpoint is None
    verify_files(read_bundle(pulled.bundle.path))
    recognizer = linnet.load_model(MODEL)
    assert recognizer.bundle.name == MODEL
    recognizer.close()
    provenance = pulled.bundle.provenance
    assert (provenance["checkpoint"], provenance["revision"]) == (NAME, COMMIT)
    assert provenance["licence"] == "apache-2.0" and list(provenance["sha256"]) == ["model.safetensors"]
    assert pulled.bundle.parity["encoder"]["min_frame_cosine"] > 0.98
    assert models() == [MODEL] and list((home / "checkpoints").iterdir()) == []


def test_the_same_command_again_does_nothing(hub: Hub) -> None:
    first = quick(NAME)
    hub.seen.clear()
    again = quick(NAME)
    assert not again.new and again.bundle == first.bundle and hub.seen == []


def test_another_precision_needs_a_name_or_force(hub: Hub) -> None:
    quick(NAME)
    with pytest.raises(ConfigError, match=r"'tiny-asr' already \(int8, int8, from Qwen/Tiny-ASR\).*--name.*--force"):
        quick(NAME, decoder=("int4",))
    quick(NAME, decoder=("int4",), name="small")
    assert quick(NAME, decoder=("fp32",), force=True).bundle.precision["decoder.onnx"] == "fp32"
    assert models() == ["small", MODEL]


def test_an_altered_model_is_made_anew(hub: Hub) -> None:
    path = quick(NAME).bundle.file("decoder.onnx.data")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert quick(NAME).new
    verify_files(read_bundle(models_folder() / MODEL))


def test_a_folder_needs_no_network(checkpoint: Path) -> None:
    pulled = quick(str(checkpoint))
    assert pulled.bundle.path.name == MODEL and checkpoint.is_dir() and models() == [MODEL]


def test_a_folder_as_source(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "mirror" / "Qwen" / "Tiny-ASR")
    assert quick(NAME, source=str(tmp_path / "mirror")).new
    assert quick("Qwen/Tiny-ASR", source=str(tmp_path), name="second").new
    with pytest.raises(CheckpointError, match=r"holds no checkpoint Qwen/Other"):
        quick("Qwen/Other", source=str(tmp_path / "mirror"))
    with pytest.raises(ConfigError, match="is no folder; accepted: hf, modelscope"):
        quick(NAME, source="github")


def test_modelscope_and_a_kept_checkpoint(hub: Hub, home: Path) -> None:
    pulled = quick(NAME, source="modelscope", keep_checkpoint=True)
    assert pulled.checkpoint == home / "checkpoints" / "Qwen--Tiny-ASR"
    assert (pulled.checkpoint / "model.safetensors").is_file() and pulled.bundle.provenance["source"] == "modelscope"


def test_a_sharded_checkpoint(hub: Hub, checkpoint: Path) -> None:
    whole = quick(str(checkpoint), name="whole").bundle
    arrays = {f"thinker.{name}": array for name, array in random_arrays().items()}
    names = sorted(arrays)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, inside in shards.items():
        write_safetensors(checkpoint / shard, {name: arrays[name] for name in inside})
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model.safetensors").unlink()
    sharded = quick(NAME).bundle
    assert sharded.files == whole.files


def test_the_network_breaks_and_the_next_run_goes_on(hub: Hub, home: Path) -> None:
    hub.break_after = 30_000
    with pytest.raises(DownloadError, match="the same command continues"):
        quick(NAME)
    assert models() == []
    hub.break_after = None
    hub.seen.clear()
    assert quick(NAME).new
    ranges = [asked for name, asked, _ in hub.seen if name == "model.safetensors"]
    assert ranges == ["bytes=150000-"]


def test_corrupted_weights_never_become_a_model(hub: Hub) -> None:
    hub.corrupt["model.safetensors"] = 9
    with pytest.raises(DownloadError, match="sent other data than its listing promises"):
        quick(NAME)
    assert models() == []


def test_another_architecture_is_refused_before_its_weights_are_downloaded(hub: Hub, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"model_type": "whisper"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'whisper'; accepted: 'qwen3_asr'"):
        quick(NAME)
    assert "model.safetensors" not in [name for name, _, _ in hub.seen] and models() == []


def test_a_checkpoint_without_tokenizer(hub: Hub, checkpoint: Path) -> None:
    (checkpoint / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        quick(NAME)
    assert "model.safetensors" not in [name for name, _, _ in hub.seen]
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        quick(str(checkpoint))
    assert models() == []


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def damage_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20:60] = b"\xff" * 40
    path.write_bytes(content)


def not_a_number(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2:] = b"\xc0\x7f"  # a bfloat16 NaN
    path.write_bytes(content)


def wrong_shape(path: Path) -> None:
    arrays = {f"thinker.{name}": array for name, array in random_arrays().items()}
    arrays["thinker.model.norm.weight"] = arrays["thinker.model.norm.weight"][:-1]
    write_safetensors(path, arrays)


def unknown_key(path: Path) -> None:
    arrays = {f"thinker.{name}": array for name, array in random_arrays().items()}
    write_safetensors(path, arrays | {"thinker.lora.A": np.zeros((2, 2), np.float32)})


def missing_key(path: Path) -> None:
    arrays = {f"thinker.{name}": array for name, array in random_arrays().items()}
    del arrays["thinker.model.layers.1.mlp.up_proj.weight"]
    write_safetensors(path, arrays)


@pytest.mark.parametrize(("damage", "message"), [
    (damage_end, "truncated"),
    (damage_header, "not a safetensors file"),
    (not_a_number, "NaN or infinity"),
    (wrong_shape, r"shape \[71\], config.json says \[72\]"),
    (unknown_key, "does not know: lora.A"),
    (missing_key, "lacks 1 tensors"),
])  # fmt: skip
def test_unusable_weights_leave_nothing_in_the_cache(
    checkpoint: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        quick(str(checkpoint))
    assert models() == []


@pytest.mark.parametrize(("name", "error", "message"), [
    ("whisper", ConfigError, "neither a folder nor a model's name"),
    ("a/b/c", ConfigError, "neither a folder"),
    ("Qwen/nano", ConfigError, "cannot be a model's name"),
    ("Qwen/Not-There", DownloadError, "no such model"),
])  # fmt: skip
def test_names_that_cannot_be(hub: Hub, name: str, error: type[LinnetError], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(name)


def test_a_gguf_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "ggufs").mkdir()
    file = tmp_path / "ggufs" / "qwen3-asr-q4_k_m.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    for place in (file, file.parent):
        with pytest.raises(CheckpointError, match="half a model: the audio encoder is not in it"):
            quick(str(place))


def test_a_bundle_and_an_empty_folder(checkpoint: Path, tmp_path: Path) -> None:
    bundle = quick(str(checkpoint)).bundle
    with pytest.raises(ConfigError, match="is a bundle already"):
        quick(str(bundle.path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json; it has nothing"):
        quick(str(tmp_path / "empty"))


def test_a_conversion_that_misses_its_limits_is_not_registered(
    hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_far(bundle: Any, folder: Path) -> dict[str, Any]:
        raise ExportError("decoder.onnx at int4: too far. Try --decoder int8.")

    monkeypatch.setattr(module, "check_conversion", too_far)
    with pytest.raises(ExportError, match=r"Try --decoder int8\. The download is kept in .*Qwen--Tiny-ASR"):
        pull(NAME, decoder=("int4",))
    assert models() == []
    hub.seen.clear()
    quick(NAME)
    assert hub.seen == []  # nothing was downloaded twice


def test_an_older_model_survives_a_pull_that_fails(hub: Hub, checkpoint: Path) -> None:
    first = quick(NAME).bundle
    damage_end(checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError):
        quick(NAME, force=True)
    assert read_bundle(first.path) == first and models() == [MODEL]


def test_a_disk_that_fills_up_in_the_conversion(checkpoint: Path, home: Path) -> None:
    """A limit on the size of files stands for a full disk: the same error of the same calls."""
    resource = pytest.importorskip("resource")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, "-m", "linnet.cli", "pull", str(checkpoint), "--skip-verify"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit, timeout=120)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert "Could not convert" in ran.stderr and "Nothing was left behind" in ran.stderr
    assert models() == []


def test_a_killed_pull_is_cleaned_up_and_its_victim_brought_back(hub: Hub) -> None:
    """What `kill -9` leaves: a half-written bundle, or the older one already moved aside."""
    first = quick(NAME).bundle
    aside, work = models_folder() / f".{MODEL}.old-x", models_folder() / f".{MODEL}.partial-y"
    aside.mkdir()
    first.path.rename(aside / "bundle")
    work.mkdir()
    (work / "encoder.onnx").write_bytes(b"half")
    again = quick(NAME)
    assert not again.new and again.bundle == first and models() == [MODEL]


def test_two_pulls_of_one_name_do_not_meet(checkpoint: Path) -> None:
    if os.name == "nt":
        pytest.skip("one process may lock a byte twice there")
    with module._alone(models_folder() / MODEL), pytest.raises(ConfigError, match="Another process is pulling"):
        quick(str(checkpoint))
    quick(str(checkpoint))


@pytest.mark.parametrize("stage", ["download", "convert", "verify"])
def test_ctrl_c_at_every_stage(hub: Hub, stage: str) -> None:
    def stop(at: str, done: float, total: float) -> None:
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(NAME, progress=stop)
    assert models() == []
    assert quick(NAME).new


def test_ctrl_c_at_any_moment(checkpoint: Path) -> None:
    """A real signal to a real process, earlier and later; the model is whole or it is not there."""
    home = checkpoint.parent / "interrupted"
    environment = os.environ | {"LINNET_HOME": str(home)}
    command = [sys.executable, "-m", "linnet.cli", "pull", str(checkpoint)]
    codes = []
    for moment_s in (0.4, 1.2):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            process.wait(moment_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        codes.append(process.returncode)
        left = [path.name for path in (home / "models").glob("*") if not path.name.endswith(".lock")]
        # The signal can also come when the work is done and Python is on its way out.
        assert left in ([], [MODEL]), errors
        if left:
            verify_files(read_bundle(home / "models" / MODEL))
            break
        assert process.returncode != 0, errors
    assert set(codes) <= {0, 130, 1, -signal.SIGINT}


def test_the_verb_prints_where_the_model_is(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["pull", str(checkpoint), "--name", "mine", "--decoder", "int4-asym", "--skip-verify"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out == f"{models_folder() / 'mine'}\n" and "--model mine" in shown.err


def test_a_four_bit_encoder_is_refused_with_the_reason(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["pull", str(checkpoint), "--encoder", "int4"])
    assert ended.value.code == 1
    assert "fewer than 8 bits breaks recognition" in capsys.readouterr().err and models() == []


def test_figures_can_be_stored_without_touching_anything_else(checkpoint: Path) -> None:
    bundle = quick(str(checkpoint)).bundle
    changed = write_parity(bundle, {"encoder": {"max_abs": 0.5}})
    assert read_bundle(bundle.path) == changed and changed.files == bundle.files
