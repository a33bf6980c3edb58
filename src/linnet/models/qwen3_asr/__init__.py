"""Qwen3-ASR in torch: configuration, network, training task, export."""
