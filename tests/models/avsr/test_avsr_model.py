"""The audio-visual network: masks, four fusions that differ, missing streams, the parameter limit, the ONNX graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from linnet.errors import ConfigError, ExportError
from linnet.export.avsr import write_avsr
from linnet.models.avsr.fusion import reliability
from linnet.models.avsr.model import AVSR
from linnet.models.presets import PRESETS
from linnet.runtime.avsr_config import FUSIONS, MAX_PARAMETERS, AVSRConfig, Fusion, Vocabulary, audio_steps, steps
from linnet.runtime.providers import session_options

SMALL = AVSRConfig(
    video_px=16, audio_channels=(4, 6, 8), video_channels=(4, 6, 8), width=24, stream_blocks=1, joint_blocks=1, kernel=5
)
# mel frames and pictures: both, sound alone, pictures alone, unequal either way, one step
LENGTHS = [(151, 38), (90, 0), (0, 23), (33, 51), (160, 3), (1, 0), (0, 1)]


def network(fusion: Fusion, shape: AVSRConfig = SMALL) -> AVSR:
    torch.manual_seed(3)
    model = AVSR(replace(shape, fusion=fusion), Vocabulary()).eval()
    for parameter in model.parameters():  # what begins at zero must not hide a mistake
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def clips(model: AVSR, lengths: list[tuple[int, int]]) -> list[torch.Tensor]:
    rng, side = np.random.default_rng(0), model.config.video_px
    mel = rng.normal(0.3, 0.5, (len(lengths), 40, max(1, *(m for m, _ in lengths)))).astype(np.float32)
    video = rng.integers(0, 256, (len(lengths), max(1, *(v for _, v in lengths)), side, side)).astype(np.uint8)
    frames = [torch.tensor([pair[k] for pair in lengths]) for k in (0, 1)]
    return [torch.from_numpy(mel), frames[0], torch.from_numpy(video), frames[1]]


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_a_clip_in_a_batch_answers_as_alone(fusion: Fusion) -> None:
    model = network(fusion)
    mel, mel_frames, video, video_frames = clips(model, LENGTHS)  # the padding is noise, not zeros
    batched = model(mel, mel_frames, video, video_frames)
    for row, (heard, seen) in enumerate(LENGTHS):
        alone = model(
            mel[row : row + 1, :, : max(1, heard)],
            mel_frames[row : row + 1],
            video[row : row + 1, : max(1, seen)],
            video_frames[row : row + 1],
        )
        length = int(alone.lengths[0])
        assert length == int(batched.lengths[row]) == steps(heard, seen)
        # float32 sums in another order: a few times 1e-6
        assert torch.allclose(alone.log_probs[0, :length], batched.log_probs[row, :length], atol=2e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_both_streams_count_and_padding_does_not(fusion: Fusion) -> None:
    model = network(fusion)
    mel, mel_frames, video, video_frames = clips(model, [(120, 30)])
    answer = model(mel, mel_frames, video, video_frames).log_probs
    assert not torch.allclose(answer, model(mel.roll(9, 2), mel_frames, video, video_frames).log_probs, atol=1e-3)
    assert not torch.allclose(answer, model(mel, mel_frames, video.roll(5, 1), video_frames).log_probs, atol=1e-3)
    longer = torch.nn.functional.pad(mel, (0, 40), value=7.0)
    assert torch.allclose(answer, model(longer, mel_frames, video, video_frames).log_probs[:, :30], atol=2e-5)


@torch.no_grad()
def test_fusions_are_four_different_functions() -> None:
    inputs = clips(network("simple"), [(120, 30)])
    models = {fusion: network(fusion) for fusion in FUSIONS}
    common = models["simple"].state_dict()
    for model in models.values():  # everything but the fusion is the same
        model.load_state_dict({k: v for k, v in common.items() if not k.startswith("fusion.")}, strict=False)
    answers = [model(*inputs).log_probs for model in models.values()]
    assert all(not torch.allclose(a, b, atol=1e-2) for i, a in enumerate(answers) for b in answers[:i])


@torch.no_grad()
def test_the_adaptive_gate_sees_reliability() -> None:
    sure = torch.full((1, 20, 29), -12.0)
    sure[..., 3] = -1e-4
    unsure = torch.full((1, 20, 29), -float(np.log(29)))
    there = torch.ones(1, 20, 1)
    low, high = reliability(sure, there), reliability(unsure, there)
    assert low[..., 0].max() < 0.01 < 0.99 < high[..., 0].min()  # entropy, 1 is that of guessing
    assert low[..., 1].min() > 0.99 and abs(high[0, 9, 1] - 1 / 29) < 1e-5  # probability of the likeliest symbol
    assert not reliability(unsure, 0 * there).any()
    # Where the frames end, the mean is over those that exist.
    short = reliability(unsure, torch.tensor([1.0] * 5 + [0.0] * 15)[None, :, None])
    assert torch.allclose(short[0, :5, 0], torch.ones(5), atol=1e-5)


@torch.no_grad()
def test_weights_of_an_absent_stream_go_to_the_other() -> None:
    model = network("weighted")
    heard = torch.randn(1, 6, 24)
    nothing, one = torch.zeros(1, 6, 1), torch.ones(1, 6, 1)
    model.fusion.weights.copy_(torch.randn(2, 24) * 3)
    x = model.fusion(heard, torch.randn(1, 6, 24), one, nothing, heard, heard)
    assert torch.allclose(x, model.fusion.mix(heard), atol=1e-3)  # 1e-6 beside a share of 0.01


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("preset", ["avsr-tiny", "avsr"])
def test_every_preset_and_fusion_stays_below_five_million_parameters(preset: str, fusion: Fusion) -> None:
    shape = replace(PRESETS[preset].shape, fusion=fusion)  # type: ignore[attr-defined]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in AVSR(shape, Vocabulary()).parameters())
    assert 300_000 < count < MAX_PARAMETERS
    with torch.device("meta"), pytest.raises(ConfigError, match="accepted: below 5,000,000"):
        AVSR(replace(shape, width=512, joint_blocks=12), Vocabulary())


def test_the_head_follows_the_vocabulary() -> None:
    vocabulary = Vocabulary()
    assert len(vocabulary) == 29 and AVSR(SMALL, vocabulary).head.out_features == 29
    assert vocabulary.decode(vocabulary.encode("Don't stop, please!")) == "don't stop please"
    assert AVSR(SMALL, Vocabulary((*vocabulary.symbols, "é"))).head.out_features == 30
    with pytest.raises(ConfigError, match="lacks: 7 é"):
        vocabulary.encode("café 7")


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 99, 100, 101])
@torch.no_grad()
def test_steps_are_what_the_convolutions_give(frames: int) -> None:
    model = network("simple")
    mel, mel_frames, video, video_frames = clips(model, [(frames, 0)])
    assert model(mel, mel_frames, video, video_frames).lengths.tolist() == [audio_steps(frames)]


@pytest.mark.parametrize("fusion", FUSIONS)
@torch.no_grad()
def test_the_graph_answers_as_torch_at_lengths_it_never_saw(fusion: Fusion, tmp_path: Path) -> None:
    model = network(fusion)
    write_avsr({k: v.numpy() for k, v in model.state_dict().items()}, model.config, tmp_path / "a.onnx")
    session = ort.InferenceSession(str(tmp_path / "a.onnx"), session_options(1), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["mel", "mel_frames", "video", "video_frames"]
    for lengths in (LENGTHS, [(357, 90)], [(0, 77)], [(61, 0), (3, 1)]):
        inputs = clips(model, lengths)
        names = ("mel", "mel_frames", "video", "video_frames")
        log_probs, answered = session.run(None, {n: v.numpy() for n, v in zip(names, inputs, strict=True)})
        expected = model(*inputs)
        assert answered.tolist() == expected.lengths.tolist()
        for row, length in enumerate(answered):
            # float32 in another order
            assert np.abs(log_probs[row, :length] - expected.log_probs[row, :length].numpy()).max() < 5e-5


@pytest.mark.parametrize("precision", ["int8", "int8-careful"])
@torch.no_grad()
def test_eight_bits_change_little(precision: str, tmp_path: Path) -> None:
    model = network("adaptive", replace(SMALL, width=64))
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    write_avsr(weights, model.config, tmp_path / "a.onnx", precision=precision)
    session = ort.InferenceSession(str(tmp_path / "a.onnx"), session_options(1), providers=["CPUExecutionProvider"])
    inputs = clips(model, [(200, 50)])
    names = ("mel", "mel_frames", "video", "video_frames")
    log_probs = session.run(None, {n: v.numpy() for n, v in zip(names, inputs, strict=True)})[0]
    expected = model(*inputs).log_probs.numpy()
    assert 0 < np.abs(log_probs - expected).max() < 0.2  # steps of 1/127 of the largest activation, six layers deep
    assert (log_probs.argmax(-1) == expected.argmax(-1)).mean() > 0.9
    with pytest.raises(ExportError, match="int4"):
        write_avsr(weights, model.config, tmp_path / "b.onnx", precision="int4")


def test_shapes_that_cannot_work_are_named() -> None:
    for bad, message in (
        ({"fusion": "magic"}, "simple, weighted, attention, adaptive"),
        ({"video_px": 40}, "multiple of 16"),
        ({"n_mels": 42}, "multiple of 8"),
        ({"kernel": 8}, "odd"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(SMALL, **bad)  # type: ignore[arg-type]
