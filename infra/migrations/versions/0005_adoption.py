"""Adoption"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('workers', sa.Column('left_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('workers', sa.Column('runtime', sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column('workers', 'runtime')
    op.drop_column('workers', 'left_at')
