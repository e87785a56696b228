"""Alembic migrations: one dated file per step under `versions/`.

A new step is a new file there and its revision in `tables.SCHEMA_REVISION`; the tests upgrade an
empty store and compare it with the models.
"""
