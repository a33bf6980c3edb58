"""Named training configurations: values, nothing else. `linnet train NAME` starts one."""

from __future__ import annotations

from dataclasses import replace

from linnet.data.augment import NO_AUGMENT, AugmentConfig
from linnet.models.avsr.config import AVSRTrainConfig
from linnet.models.bsq.config import BSQTrainConfig
from linnet.models.qwen3_asr.adapter_config import AdapterTrainConfig
from linnet.models.qwen3_asr.config import NANO_SHAPE, Qwen3ASRTrainConfig
from linnet.models.wav2vec2.config import (
    CollapseLimits,
    Regularisation,
    Wav2Vec2CtcConfig,
    Wav2Vec2PretrainConfig,
)
from linnet.runtime.avsr_config import AVSRConfig
from linnet.runtime.bsq_config import ENVIRONMENT, MUSIC, BSQConfig
from linnet.runtime.wav2vec2_config import Wav2Vec2Config
from linnet.train.config import TrainConfig

NANO = Qwen3ASRTrainConfig(
    summary="the embedded model's recipe: four million parameters, hours on two CPU cores",
    shape=NANO_SHAPE,
    steps=13_000,
    warmup_steps=200,
    learning_rate=1.5e-3,
    weight_decay=0.02,
    average_weights=0.999,
    optimizer="muon",
    batch_audio_s=60.0,
    ctc_weight=0.4,
    token_ctc_weight=0.3,
    encoder_warmup_steps=5_000,
    clean_epochs=1,
    ramp_epochs=2,
    history_noise=0.15,
    context_probability=0.1,
    drop_path=0.1,
    augment=AugmentConfig(
        noise_probability=0.25,
        snr_db=(10.0, 30.0),
        reverb_probability=0.1,
        speed=(0.85, 1.15),
        vocal_tract=(0.85, 1.18),
        gain_db=(-8.0, 8.0),
        freq_mask_bands=20,
        time_mask_ratio=0.07,
    ),
    # Licences allow shipping what is trained on these (docs/nano.md); corpora that are not named are left out.
    corpora={
        "speechocean762": 2.0,
        "ljspeech": 2.0,
        "fsdd": 1.0,
        "audio_cmn_hsk1-4": 3.0,
        "spliced_speechocean762": 0.5,
        "synthetic_espeak": 0.25,
        "synthetic_flite": 0.25,
    },
    joined={"fsdd": (1000, 6), "audio_cmn_hsk1-4": (1500, 3)},
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
    beam_size=1,
)

TINY = replace(
    NANO,
    summary="Qwen3-ASR's architecture at its smallest: tries the pipeline on two CPU cores in minutes",
    optimizer="adamw",
    shape=TINY_SHAPE,
    steps=600,
    warmup_steps=100,
    learning_rate=3e-3,
    average_weights=0.0,
    batch_audio_s=60.0,
    ctc_weight=0.4,
    token_ctc_weight=0.0,
    encoder_warmup_steps=150,
    clean_epochs=1,
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

BSQ_TINY = BSQTrainConfig(
    summary="audio tokenizer of 1.5 million parameters, 36 bits at 50 tokens/s = 1800 bit/s: learns on a CPU",
    shape=BSQConfig(bits=36, d_model=128, layers=2, heads=4, waveform_channels=128, waveform_layers=3),
    steps=8000,
    warmup_steps=100,
    learning_rate=1e-3,
    schedule="constant",  # the weight average does what a decay would, and a run can stop at any time
    average_weights=0.998,
    crop_s=1.5,
    batch_audio_s=8.0,
    # 0.83 per bit: at the reference's 1 the entropy term hardly acts, and few tokens were left (docs/log.md).
    inverse_temperature=30.0,
    entropy_weight=0.3,
    stft_weight=0.1,
    wave_mel_weight=0.1,
    augment=replace(NO_AUGMENT, noise_probability=0.1, snr_db=(10.0, 30.0), freq_masks=1, freq_mask_bands=6),
    # Licences allow shipping what is trained on these; corpora that are not named are left out.
    corpora={
        "speechocean762": 1.0,
        "ljspeech": 2.0,
        "fsdd": 0.3,
        "audio_cmn_hsk1-4": 0.5,
        "librispeech_train_clean_100": 3.0,
        "picovoice_speech_to_intent": 1.0,
    },
    dev_utterances=24,
    log_every=50,
    validate_every=500,
    save_every=100,
)
"""Small enough to train without an accelerator; docs/bsq.md says how far that has been taken."""

BSQ_9 = replace(
    BSQ_TINY,
    summary="audio tokenizer, 9 bits at 50 tokens/s = 450 bit/s",
    shape=BSQConfig(bits=9, d_model=512, layers=6, heads=8, waveform_channels=384, waveform_layers=6),
    steps=200_000,
    warmup_steps=2000,
    inverse_temperature=7.5,
    entropy_weight=0.075,
    learning_rate=5e-4,
    dev_utterances=60,
    schedule="cosine",
    average_weights=0.999,
    crop_s=4.0,
    batch_audio_s=160.0,
    precision="bf16",
    augment=replace(
        NO_AUGMENT, noise_probability=0.3, reverb_probability=0.1, freq_masks=2, freq_mask_bands=12, time_masks=1
    ),
    corpora={},
    validate_every=5000,
    save_every=1000,
    workers=4,
)
BSQ_18 = replace(
    BSQ_9,
    summary="audio tokenizer, 18 bits at 50 tokens/s = 900 bit/s",
    shape=BSQConfig(bits=18, d_model=768, layers=12, heads=12, waveform_channels=512, waveform_layers=8),
    inverse_temperature=15.0,
    entropy_weight=0.15,
    learning_rate=3e-4,
)
BSQ_36 = replace(
    BSQ_9,
    summary="audio tokenizer, 36 bits at 50 tokens/s = 1800 bit/s",
    shape=BSQConfig(bits=36, d_model=1024, layers=24, heads=16, waveform_channels=512, waveform_layers=8),
    inverse_temperature=30.0,
    entropy_weight=0.3,
    learning_rate=2e-4,
    gradient_checkpointing=True,
)
BSQ_MUSIC = replace(
    BSQ_18,
    summary="audio tokenizer for music, 44.1 kHz, 36 bits at 50 tokens/s = 1800 bit/s",
    shape=replace(BSQ_18.shape, features=MUSIC, bits=36),
    inverse_temperature=30.0,
    entropy_weight=0.3,
)
BSQ_ENVIRONMENT = replace(
    BSQ_18,
    summary="audio tokenizer for sounds of the environment, 32 kHz, 18 bits at 50 tokens/s = 900 bit/s",
    shape=replace(BSQ_18.shape, features=ENVIRONMENT),
)

WAV2VEC2_TINY_SHAPE = Wav2Vec2Config(
    # Frames of 40 ms, a convolution more than the published 20 ms: a step costs two thirds of the time, and CTC begins
    # to hear in half the updates, since there are fewer blanks between labels to learn first (docs/log.md).
    conv_dim=(64, 64, 96, 96, 128, 128, 128, 128),
    conv_kernel=(10, 3, 3, 3, 3, 2, 2, 2),
    conv_stride=(5, 2, 2, 2, 2, 2, 2, 2),
    conv_bias=True,  # without, silence is all zeros, and layer norm's gradient there is beyond all bounds
    norm="layer",
    hidden_size=192,
    layers=4,
    heads=4,
    ffn_dim=576,
    pre_norm=True,
    position_kernel=32,
    position_groups=8,
    codebook_size=64,
    code_dim=64,
    projection_dim=64,
)
WAV2VEC2_LARGE_SHAPE = Wav2Vec2Config(
    conv_bias=True,
    norm="layer",
    hidden_size=1024,
    layers=24,
    heads=16,
    ffn_dim=4096,
    pre_norm=True,
    code_dim=768,
    projection_dim=768,
)

WAV2VEC2_BASE = Wav2Vec2PretrainConfig(
    summary="wav2vec 2.0 base, pretraining: the published size (95 M) and recipe, for many GPUs",
    steps=400_000,
    warmup_steps=32_000,
    learning_rate=5e-4,
    schedule="linear",
    final_lr_ratio=0.0,
    batch_audio_s=87.5,
    validate_every=5_000,
    save_every=2_000,
    precision="bf16",
    workers=4,
)
WAV2VEC2_LARGE = replace(
    WAV2VEC2_BASE,
    summary="wav2vec 2.0 large (lv60), pretraining: the published size (317 M) and recipe, for many GPUs",
    shape=WAV2VEC2_LARGE_SHAPE,
    learning_rate=3e-4,
    temperature=(2.0, 0.1, 0.999995),
    feature_gradient=1.0,
    penalty_weight=0.0,
    regularisation=Regularisation(layer_drop=0.0),
    gradient_checkpointing=True,
)
WAV2VEC2_TINY = replace(
    WAV2VEC2_BASE,
    summary="wav2vec 2.0 at its smallest (2.0 M), pretraining: minutes on two CPU cores",
    shape=WAV2VEC2_TINY_SHAPE,
    steps=3_000,
    warmup_steps=100,
    learning_rate=1e-3,
    batch_audio_s=20.0,
    crop_s=8.0,
    mask_length=5,
    negatives=50,
    temperature=(2.0, 0.5, 0.998),
    feature_gradient=1.0,
    penalty_weight=1.0,
    diversity_weight=0.5,  # with the published 0.1 and 1.0 the codebooks collapse within 80 updates (docs/log.md)
    quantizer_std=0.5,
    collapse=CollapseLimits(patience=50, grace_steps=50),
    regularisation=Regularisation(),
    unused_parameters=False,
    dev_utterances=50,
    precision="no",
    validate_every=200,
    save_every=100,
    workers=0,
)

WAV2VEC2_BASE_CTC = Wav2Vec2CtcConfig(
    summary="wav2vec 2.0 base, fine-tuning with CTC: start it with --init-from",
    steps=80_000,
    warmup_steps=8_000,
    learning_rate=3e-5,
    schedule="tri_stage",
    final_lr_ratio=0.05,
    freeze_steps=10_000,
    batch_audio_s=200.0,
    validate_every=2_000,
    save_every=1_000,
    precision="bf16",
    workers=4,
)
WAV2VEC2_LARGE_CTC = replace(
    WAV2VEC2_BASE_CTC,
    summary="wav2vec 2.0 large (lv60), fine-tuning with CTC: start it with --init-from",
    shape=WAV2VEC2_LARGE_SHAPE,
    batch_audio_s=80.0,
    gradient_checkpointing=True,
)
WAV2VEC2_TINY_CTC = replace(
    WAV2VEC2_BASE_CTC,
    summary="wav2vec 2.0 at its smallest, fine-tuning with CTC: minutes on two CPU cores",
    shape=WAV2VEC2_TINY_SHAPE,
    steps=2_500,
    warmup_steps=60,
    learning_rate=1e-3,
    freeze_steps=0,
    batch_audio_s=8.0,  # CTC needs many updates to begin with, not large ones
    regularisation=Regularisation(mask_time=0.1, mask_time_length=5),  # more masks keep a random network from beginning
    unused_parameters=False,
    precision="no",
    validate_every=500,
    save_every=500,
    workers=0,
)

ADAPTER = AdapterTrainConfig(
    summary="an adapter that makes a frozen Qwen3-ASR hear better in noise; --plan tells what memory it takes",
    steps=1000,
    warmup_steps=50,
    learning_rate=1e-3,
    validate_every=200,
    save_every=200,
)

AVSR_TINY = AVSRTrainConfig(
    summary="audio-visual recognition at its smallest: learns synthetic talking mouths on two CPU cores",
    shape=AVSRConfig(),
    steps=1200,
    warmup_steps=100,
    learning_rate=3e-3,
    ramp_epochs=6,
    validate_every=100,
    save_every=100,
    patience=6,
    plateau_lr_ratio=0.7,
)
AVSR = replace(
    AVSR_TINY,
    summary="audio-visual recognition in three million parameters, for real lips; hours on a GPU",
    shape=AVSRConfig(
        video_px=64,
        audio_channels=(32, 64, 96),
        video_channels=(32, 64, 96),
        width=256,
        joint_blocks=5,
    ),
    steps=60_000,
    warmup_steps=2_000,
    learning_rate=1e-3,
    batch_audio_s=200.0,
    average_weights=0.999,
    validate_every=1000,
    save_every=1000,
    patience=20,
    workers=4,
)

PRESETS: dict[str, TrainConfig] = {
    "nano": NANO,
    "qwen3-asr-tiny": TINY,
    "qwen3-asr-adapter": ADAPTER,
    "bsq-tiny": BSQ_TINY,
    "bsq-9": BSQ_9,
    "bsq-18": BSQ_18,
    "bsq-36": BSQ_36,
    "bsq-music": BSQ_MUSIC,
    "bsq-environment": BSQ_ENVIRONMENT,
    "avsr-tiny": AVSR_TINY,
    "avsr": AVSR,
    "wav2vec2-tiny": WAV2VEC2_TINY,
    "wav2vec2-base": WAV2VEC2_BASE,
    "wav2vec2-large": WAV2VEC2_LARGE,
    "wav2vec2-tiny-ctc": WAV2VEC2_TINY_CTC,
    "wav2vec2-base-ctc": WAV2VEC2_BASE_CTC,
    "wav2vec2-large-ctc": WAV2VEC2_LARGE_CTC,
}
