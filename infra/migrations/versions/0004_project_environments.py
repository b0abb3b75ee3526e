"""Project environments"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

JSONB = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    op.add_column('projects', sa.Column('image', sa.String(), nullable=True))
    op.add_column('projects', sa.Column('setup_script', sa.String(), nullable=True))
    op.add_column('projects', sa.Column('variables', JSONB, server_default=sa.text("'{}'"), nullable=False))
    op.add_column('projects', sa.Column('secrets', JSONB, server_default=sa.text("'{}'"), nullable=False))
    op.create_table(
        'images',
        sa.Column('reference', sa.String(), nullable=False),
        sa.Column('state', sa.String(), nullable=False),
        sa.Column('error', JSONB, nullable=True),
        sa.Column('requested_by', sa.Uuid(), nullable=True),
        sa.Column('requested_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('token', sa.Uuid(), nullable=True),
        sa.Column('not_before', sa.DateTime(timezone=True), nullable=True),
        sa.Column('tries', sa.Integer(), server_default=sa.text('0'), nullable=False),
        sa.CheckConstraint("state in ('checking','ready','refused')", name=op.f('ck_images_state')),
        sa.CheckConstraint("(state = 'refused') = (error is not null)", name=op.f('ck_images_error')),
        sa.ForeignKeyConstraint(['requested_by'], ['users.id'], name=op.f('fk_images_requested_by_users'), ondelete='SET NULL'),
        sa.PrimaryKeyConstraint('reference', name=op.f('pk_images')),
    )
    op.create_index('ix_images_checking', 'images', ['requested_at'], unique=False, postgresql_where=sa.text("state = 'checking'"))
    op.create_index('ix_images_requested_by', 'images', ['requested_by'], unique=False)


def downgrade() -> None:
    op.drop_table('images')
    op.drop_column('projects', 'secrets')
    op.drop_column('projects', 'variables')
    op.drop_column('projects', 'setup_script')
    op.drop_column('projects', 'image')
