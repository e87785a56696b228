"""The database and its journals. The only importer of sqlmodel, sqlalchemy and alembic."""
