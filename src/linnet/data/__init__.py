"""Data for training: datasets, batching, augmentation, corpus readers."""
