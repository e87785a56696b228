"""Checkpoints made from fixed seeds, and what torch says that they compute."""
