"""The audit log: its lines, its anchor, and denied requests."""
