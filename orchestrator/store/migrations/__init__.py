"""Alembic migrations: one dated file per step under `versions/`.

For a new step, add a file there and set its revision in `tables.SCHEMA_REVISION`; the tests upgrade
an empty store and compare it with the models.
"""
