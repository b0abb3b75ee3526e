"""Indexes for lists of tasks by state, tokens and usage; answers that show a secret are kept encrypted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index('ix_api_tokens_user_id_id', 'api_tokens', ['user_id', 'id'], unique=False)
    op.drop_index('ix_api_tokens_user_id', table_name='api_tokens')
    op.create_index('ix_tasks_user_id_status_id', 'tasks', ['user_id', 'status', 'id'], unique=False)
    op.create_index('ix_model_calls_started_at', 'model_calls', ['started_at'], unique=False)
    op.add_column('idempotency_keys', sa.Column('sealed', sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.execute(sa.text('delete from idempotency_keys where sealed is not null'))
    op.drop_column('idempotency_keys', 'sealed')
    op.drop_index('ix_model_calls_started_at', table_name='model_calls')
    op.drop_index('ix_tasks_user_id_status_id', table_name='tasks')
    op.create_index('ix_api_tokens_user_id', 'api_tokens', ['user_id'], unique=False)
    op.drop_index('ix_api_tokens_user_id_id', table_name='api_tokens')
