"""The audit log: its lines, its anchor, refusals of management calls."""
