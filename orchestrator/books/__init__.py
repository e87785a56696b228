"""Usage records: written once for each request, and their sums."""
