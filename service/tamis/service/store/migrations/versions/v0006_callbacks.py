"""Callbacks: the url of a job, the outbox, and the owners' secrets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("callback_url", sa.String(2048)))
    op.create_table(
        "callbacks",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("owner", sa.String(256), nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callbacks")),
    )
    op.create_index(op.f("ix_callbacks_due_at"), "callbacks", ["due_at"])
    op.create_table(
        "webhook_secrets",
        sa.Column("owner", sa.String(256), nullable=False),
        sa.Column("secret", sa.String(80), nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_webhook_secrets")),
    )


def downgrade() -> None:
    op.drop_table("webhook_secrets")
    op.drop_table("callbacks")
    op.drop_column("jobs", "callback_url")
