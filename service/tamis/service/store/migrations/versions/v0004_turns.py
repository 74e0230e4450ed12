"""Fair share among owners, an index on fingerprints, expiry and removal of files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Jobs that wait already keep their order: all take the same turn, and the older id goes first.
    op.add_column("jobs", sa.Column("vtime", sa.Float(53), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("expired_at", sa.Float(53)))
    op.drop_index(op.f("ix_jobs_state_priority_id"), "jobs")
    op.create_index(op.f("ix_jobs_state_priority_vtime_id"), "jobs", ["state", "priority", "vtime", "id"])
    op.create_index(op.f("ix_jobs_owner_priority_vtime"), "jobs", ["owner", "priority", "vtime"])
    op.create_index(op.f("ix_jobs_owner_fingerprint"), "jobs", ["owner", "fingerprint"])
    op.create_table(
        "removals",
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("since", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_removals")),
    )


def downgrade() -> None:
    op.drop_table("removals")
    op.drop_index(op.f("ix_jobs_owner_fingerprint"), "jobs")
    op.drop_index(op.f("ix_jobs_owner_priority_vtime"), "jobs")
    op.drop_index(op.f("ix_jobs_state_priority_vtime_id"), "jobs")
    op.create_index(op.f("ix_jobs_state_priority_id"), "jobs", ["state", "priority", "id"])
    op.drop_column("jobs", "expired_at")
    op.drop_column("jobs", "vtime")
