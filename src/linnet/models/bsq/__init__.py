"""BSQ: an audio tokenizer with binary spherical quantisation."""
