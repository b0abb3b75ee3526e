"""The floor of `accept`: the least that a Flask service can do to take a job. It checks nothing and knows nobody."""

from __future__ import annotations

import atexit
import os
import uuid

from celery import Celery
from flask import Flask, request
from psycopg_pool import ConnectionPool


def make_app() -> Flask:
    """For gunicorn: `tests.bench.bare:make_app()`."""
    app = Flask("bare")
    pool = ConnectionPool(os.environ["FARHAND_DATABASE_URL"], min_size=4, max_size=20, open=True)
    atexit.register(pool.close)  # while its threads still run: a pool that is collected later complains
    queue = Celery("bare", broker=os.environ["FARHAND_REDIS_URL"])
    queue.conf.task_ignore_result = True
    with pool.connection() as connection:
        connection.execute("create table if not exists bare (id uuid primary key, repo_url text, prompt text)")

    @app.post("/v1/tasks")
    def take() -> tuple[dict[str, str], int]:
        body = request.get_json()
        job = uuid.uuid4()
        with pool.connection() as connection:
            connection.execute("insert into bare values (%s, %s, %s)", (job, body["repo_url"], body["prompt"]))
        queue.send_task("bare.run", args=[str(job)], queue="bare")
        return {"id": str(job), "status": "pending"}, 202

    return app
