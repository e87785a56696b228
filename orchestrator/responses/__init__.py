"""Stored responses and background runs."""
