"""The schema's history, run by Alembic; `migrate` is safe when several processes start at once."""
