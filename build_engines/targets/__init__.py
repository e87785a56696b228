"""Builders of artefacts, one file for each target."""
