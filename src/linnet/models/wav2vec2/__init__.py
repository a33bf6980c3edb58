"""wav2vec 2.0: self-supervised pretraining, CTC fine-tuning, export."""
