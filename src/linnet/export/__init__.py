"""Checkpoints → bundles: ONNX graphs written directly, GGUF, quantisation. Torch-free."""
