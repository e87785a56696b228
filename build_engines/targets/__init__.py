"""What builds artefacts, one file for each target."""
