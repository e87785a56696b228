"""Floor 0: the values that every other part speaks in. Standard library only."""
