"""Readers that turn published corpora and synthetic speech into manifests."""
