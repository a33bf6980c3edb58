"""Named training configurations: values, nothing else. `linnet train NAME` starts one."""

from __future__ import annotations

from dataclasses import replace

from linnet.data.augment import AugmentConfig
from linnet.models.qwen3_asr.config import NANO_SHAPE, Qwen3ASRTrainConfig
from linnet.train.config import TrainConfig

NANO = Qwen3ASRTrainConfig(
    summary="the embedded model's recipe: four million parameters, hours on two CPU cores",
    shape=NANO_SHAPE,
    steps=24_000,
    warmup_steps=200,
    learning_rate=1.5e-3,
    average_weights=0.999,
    batch_audio_s=45.0,
    ctc_weight=0.7,
    token_ctc_weight=0.5,
    encoder_warmup_steps=3_000,
    ramp_epochs=6,
    history_noise=0.15,
    context_probability=0.1,
    drop_path=0.1,
    augment=AugmentConfig(
        noise_probability=0.25,
        reverb_probability=0.1,
        speed=(0.88, 1.14),
        vocal_tract=(0.88, 1.14),
        gain_db=(-8.0, 8.0),
        freq_mask_bands=20,
        time_mask_ratio=0.06,
    ),
    # Licences allow shipping what is trained on these (docs/nano.md); corpora that are not named are left out.
    corpora={
        "speechocean762": 2.0,
        "ljspeech": 2.0,
        "fsdd": 1.0,
        "audio_cmn_hsk1-4": 2.0,
        "synthetic_espeak": 0.25,
        "synthetic_flite": 0.25,
    },
    joined={"fsdd": (2000, 6), "audio_cmn_hsk1-4": (1500, 3)},
    log_every=50,
    validate_every=1000,
    save_every=500,
    workers=1,
)
"""The embedded model: Qwen3-ASR's architecture at four million parameters, learned from a few hours of speech."""

TINY_SHAPE = replace(
    NANO_SHAPE,
    conv_channels=16,
    d_model=96,
    encoder_layers=3,
    encoder_heads=3,
    encoder_ffn_dim=256,
    output_dim=96,
    hidden_size=96,
    decoder_layers=2,
    decoder_heads=3,
    decoder_kv_heads=1,
    head_dim=32,
    intermediate_size=256,
    vocab_size=384,
)

TINY = replace(
    NANO,
    summary="Qwen3-ASR's architecture at its smallest: tries the pipeline on two CPU cores in minutes",
    shape=TINY_SHAPE,
    steps=600,
    warmup_steps=100,
    learning_rate=3e-3,
    average_weights=0.0,
    batch_audio_s=60.0,
    ctc_weight=0.4,
    token_ctc_weight=0.0,
    encoder_warmup_steps=150,
    ramp_epochs=2,
    history_noise=0.0,
    context_probability=0.0,
    corpora={},
    joined={},
    log_every=20,
    validate_every=200,
    save_every=200,
    workers=0,
)
"""Learns spoken digits on two CPU cores in minutes: for tests and for trying the pipeline on one's own data."""

PRESETS: dict[str, TrainConfig] = {"nano": NANO, "qwen3-asr-tiny": TINY}
