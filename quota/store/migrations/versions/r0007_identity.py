"""Sign-in from outside: who is gone at their provider, who has yet to see their profile, codes that link two sign-ins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("person", sa.Column("suspended_us", sa.BigInteger(), nullable=True))
    op.add_column("person", sa.Column("greeted", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("person_data", sa.Column("profile_us", sa.BigInteger(), nullable=True))
    op.create_table(
        "link_code",
        sa.Column("code_hash", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name=op.f("fk_link_code_person_id")),
        sa.PrimaryKeyConstraint("code_hash", name=op.f("pk_link_code")),
        comment="Codes that link two sign-ins of one person; a used one is gone.",
    )
    op.create_index(op.f("ix_link_code_person_id"), "link_code", ["person_id"], unique=False)
