"""Readiness, and values read at a scrape."""
