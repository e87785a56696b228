"""HTTP without a dialect."""
