"""Pull requests"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('projects', sa.Column('pull_request', sa.String(), server_default=sa.text("'on_request'"), nullable=False))
    op.create_check_constraint(op.f('ck_projects_pull_request'), 'projects', "pull_request in ('never','on_request','always')")
    op.add_column('tasks', sa.Column('pull_request', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('tasks', sa.Column('pull_request_requested_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('tasks', sa.Column('pull_request_token', sa.Uuid(), nullable=True))
    op.add_column('tasks', sa.Column('pull_request_not_before', sa.DateTime(timezone=True), nullable=True))
    op.add_column('tasks', sa.Column('pull_request_tries', sa.Integer(), server_default=sa.text('0'), nullable=False))
    op.create_check_constraint(
        op.f('ck_tasks_pull_request'),
        'tasks',
        "pull_request_token is null or (pull_request_requested_at is not null and pull_request_not_before is not null)",
    )
    op.create_index('ix_tasks_pull_request', 'tasks', ['pull_request_requested_at'], unique=False, postgresql_where=sa.text('pull_request_requested_at is not null'))


def downgrade() -> None:
    op.drop_index('ix_tasks_pull_request', table_name='tasks', postgresql_where=sa.text('pull_request_requested_at is not null'))
    op.drop_constraint(op.f('ck_tasks_pull_request'), 'tasks')
    op.drop_column('tasks', 'pull_request_tries')
    op.drop_column('tasks', 'pull_request_not_before')
    op.drop_column('tasks', 'pull_request_token')
    op.drop_column('tasks', 'pull_request_requested_at')
    op.drop_column('tasks', 'pull_request')
    op.drop_constraint(op.f('ck_projects_pull_request'), 'projects')
    op.drop_column('projects', 'pull_request')
