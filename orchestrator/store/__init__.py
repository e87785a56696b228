"""Where tenants and virtual keys live. The only importer of sqlmodel, sqlalchemy and alembic."""
