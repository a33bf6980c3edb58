"""Torch-free recognisers: bundles in, text out."""
