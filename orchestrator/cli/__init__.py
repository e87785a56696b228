"""The commands behind `python -m orchestrator`, one file per noun."""
