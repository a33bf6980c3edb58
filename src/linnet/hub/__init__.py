"""Checkpoints from a hub: what a repository offers, and its files, resumed and checked. Standard library only."""
