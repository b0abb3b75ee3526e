"""Worker hosts: Celery jobs, the runner of one attempt, sandboxes, the relay, workspaces."""
