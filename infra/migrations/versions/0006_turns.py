"""Whose turn it is: limits that can be changed, indexes for the line of pending tasks, rows of dead workers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None

_OPEN = sa.text("status in ('pending','running','waiting')")


def upgrade() -> None:
    op.create_table('limits',
    sa.Column('name', sa.String(), nullable=False),
    sa.Column('value', sa.Integer(), nullable=False),
    sa.CheckConstraint('value >= 0', name=op.f('ck_limits_value')),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_limits'))
    )
    op.create_index('ix_tasks_open', 'tasks', ['status', 'user_id', 'id'], unique=False, postgresql_where=_OPEN)
    op.create_index('ix_tasks_cancel_requested', 'tasks', ['id'], unique=False, postgresql_where=sa.text('cancel_requested_at is not null'))
    op.create_index('ix_tasks_held', 'tasks', ['worker_id'], unique=False, postgresql_where=sa.text('worker_id is not null'))
    op.drop_index('ix_tasks_running', table_name='tasks')
    op.drop_index('ix_tasks_pending', table_name='tasks')
    op.drop_index('ix_tasks_user_open', table_name='tasks')
    op.create_index('ix_workers_unswept', 'workers', ['alive_until'], unique=False, postgresql_where=sa.text('swept_at is null'))
    op.drop_index('ix_workers_alive_until', table_name='workers')
    op.alter_column('attempts', 'worker_id', nullable=True)
    op.drop_constraint('fk_attempts_worker_id', 'attempts', type_='foreignkey')
    op.create_foreign_key(op.f('fk_attempts_worker_id'), 'attempts', 'workers', ['worker_id'], ['id'], ondelete='SET NULL')


def downgrade() -> None:
    op.drop_constraint(op.f('fk_attempts_worker_id'), 'attempts', type_='foreignkey')
    op.create_foreign_key('fk_attempts_worker_id', 'attempts', 'workers', ['worker_id'], ['id'])
    op.execute(sa.text('delete from attempts where worker_id is null'))
    op.alter_column('attempts', 'worker_id', nullable=False)
    op.create_index('ix_workers_alive_until', 'workers', ['alive_until'], unique=False)
    op.drop_index('ix_workers_unswept', table_name='workers', postgresql_where=sa.text('swept_at is null'))
    op.create_index('ix_tasks_user_open', 'tasks', ['user_id'], unique=False, postgresql_where=_OPEN)
    op.create_index('ix_tasks_pending', 'tasks', ['enqueued_at'], unique=False, postgresql_where=sa.text("status = 'pending'"))
    op.create_index('ix_tasks_running', 'tasks', ['worker_id'], unique=False, postgresql_where=sa.text("status = 'running'"))
    op.drop_index('ix_tasks_held', table_name='tasks', postgresql_where=sa.text('worker_id is not null'))
    op.drop_index('ix_tasks_cancel_requested', table_name='tasks', postgresql_where=sa.text('cancel_requested_at is not null'))
    op.drop_index('ix_tasks_open', table_name='tasks', postgresql_where=_OPEN)
    op.drop_table('limits')
