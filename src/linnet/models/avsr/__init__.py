"""Audio-visual speech recognition with CTC in under five million parameters; README.md is the specification."""
