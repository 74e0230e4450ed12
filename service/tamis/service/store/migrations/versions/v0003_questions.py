"""Questions that jobs ask, and their answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "questions",
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rows", sa.LargeBinary(), nullable=False),
        sa.Column("scores", sa.LargeBinary(), nullable=False),
        sa.Column("answered", sa.LargeBinary(), nullable=False),
        sa.Column("missing", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.Float(53), nullable=False),
        sa.Column("answered_at", sa.Float(53)),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_questions_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "round", name=op.f("pk_questions")),
    )
    op.add_column("jobs", sa.Column("round", sa.Integer()))


def downgrade() -> None:
    op.drop_column("jobs", "round")
    op.drop_table("questions")
