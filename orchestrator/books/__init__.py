"""Usage records: written once per call, summed by day."""
