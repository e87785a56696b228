"""The machine that builds: its Python environment, its programs, its hardware."""
