"""Egress of projects, and the records of connections"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('egress_connections',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('task_id', sa.Uuid(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('host', sa.String(), nullable=False),
    sa.Column('port', sa.Integer(), nullable=False),
    sa.Column('address', sa.String(), nullable=True),
    sa.Column('method', sa.String(), nullable=False),
    sa.Column('decision', sa.String(), nullable=False),
    sa.Column('reason', sa.String(), nullable=True),
    sa.Column('bytes_up', sa.BigInteger(), nullable=False),
    sa.Column('bytes_down', sa.BigInteger(), nullable=False),
    sa.Column('connections', sa.Integer(), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("decision in ('allowed','refused')", name=op.f('ck_egress_connections_decision')),
    sa.ForeignKeyConstraint(['task_id'], ['tasks.id'], name=op.f('fk_egress_connections_task_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_egress_connections'))
    )
    op.create_index('ix_egress_connections_task_id_id', 'egress_connections', ['task_id', 'id'], unique=False)
    op.add_column('projects', sa.Column('egress', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text('\'"none"\''), nullable=False))


def downgrade() -> None:
    op.drop_column('projects', 'egress')
    op.drop_index('ix_egress_connections_task_id_id', table_name='egress_connections')
    op.drop_table('egress_connections')
