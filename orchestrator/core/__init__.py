"""Floor 0: the values that all other parts use. Standard library only."""
