"""Measurements of the running stack, printed as ratios of one run."""
