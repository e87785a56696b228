"""The database and the journals before it. The only importer of sqlmodel, sqlalchemy and
alembic.
"""
