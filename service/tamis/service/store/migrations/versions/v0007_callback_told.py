"""Status of a job's callback, a column of the job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("callback", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    op.drop_column("jobs", "callback")
