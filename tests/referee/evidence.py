"""What is seen from outside once a run is over: plain values, so that a check can be shown a forged one.

Sources: REST, the subscribers' own lists, the git host's repositories, the request logs of the stand-ins, a read of
Postgres, the engine's list and the run directories.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent_runtime.conversation import INTERRUPTED
from tests.referee.faults import Fault
from tests.referee.plans import Plan, Tree
from tests.referee.run import Run
from tests.referee.taskruns import TaskRun
from tests.standin.git_command import run_git
from tests.standin.gitserver import GitServer
from tests.standin.model_request import ModelRequest

Json = dict[str, Any]


@dataclass
class Ask:
    """One request to the model. `at`: seconds of the wall clock. `results`: the tool results that it tells of."""

    at: float
    step: int
    results: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass
class ModelCall:
    """One hold of money: `state` settled, released or lost. Times are seconds of the wall clock."""

    step: int
    state: str
    started: float
    ended: float
    cost_usd: float


@dataclass
class ToolCall:
    """`output` None: no result was recorded. It was announced `at`, and its result was recorded when it `ended`."""

    step: int
    index: int
    tool_use_id: str
    output: str | None
    is_error: bool
    at: float
    ended: float

    @property
    def interrupted(self) -> bool:
        return self.output is not None and INTERRUPTED in self.output


@dataclass
class TaskEvidence:
    """One task. `steps`: when each was recorded, in seconds of the wall clock. `head`: where its branch is."""

    plan: Plan
    id: str
    rest: Json
    events: list[Json]
    seen: list[Json]
    asks: list[Ask]
    steps: dict[int, float]
    model_calls: list[ModelCall]
    tool_calls: list[ToolCall]
    head: str | None
    commits: int
    """On its branch, above the one that it started from."""
    tree: Tree
    pulls: list[Json]
    retries: int = 0
    trouble: list[str] = field(default_factory=list)
    reserved_usd: float = 0.0
    open_attempts: int = 0
    kept_trees: int = 0


@dataclass
class Evidence:
    """Everything that the checks look at. `grace_s`: how long after its end a fault still explains what went wrong."""

    tasks: list[TaskEvidence]
    faults: list[Fault]
    grace_s: float
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each repository: branch → commit."""
    bases: dict[str, str] = field(default_factory=dict)
    """Of each repository: the commit of `main` when the run began."""
    task_count: int = 0
    """Rows in Postgres."""
    strangers: list[str] = field(default_factory=list)
    """Requests to the model that belong to no task."""
    complaints: list[str] = field(default_factory=list)
    not_over: list[str] = field(default_factory=list)
    ended_by_themselves: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    boundaries_missed: list[str] = field(default_factory=list)

    def explained(self, since: float, until: float) -> bool:
        """Whether a fault was going on, or had just been, at some time of that span."""
        return any(fault.began <= until and (fault.ended or since) + self.grace_s >= since for fault in self.faults)


def collect(run: Run, *, grace_s: float) -> Evidence:
    """After everything has ended, while it still runs. Raises psycopg.Error, NeverHappenedError."""
    asks, strangers = _asks(run)
    repos = sorted({task.plan.repo for task in run.tasks})
    git_host = run.deployment.git_host
    ((count,),) = run.deployment.rows("select count(*) from tasks")
    return Evidence(
        tasks=[_task(run, task, asks.get(task.plan.name, [])) for task in run.tasks if task.id],
        faults=run.faults,
        grace_s=grace_s,
        branches={repo: _branches(git_host, repo) for repo in repos},
        bases={repo: git_host.git(repo, "rev-list", "--max-parents=0", "main").strip() for repo in repos},
        task_count=int(count),
        strangers=strangers,
        complaints=list(run.user.complaints),
        not_over=list(run.not_over),
        ended_by_themselves=[line for part in run.deployment.keeper.parts for line in part.ended_by_itself],
    )


def _task(run: Run, task: TaskRun, asks: list[Ask]) -> TaskEvidence:
    rows = run.deployment.rows
    git_host, repo, branch = run.deployment.git_host, task.plan.repo, f"farhand/{task.id}"
    head = _branches(git_host, repo).get(branch)
    ((reserved, attempts, trees),) = rows(
        "select reserved_usd, (select count(*) from attempts a where a.task_id = t.id and a.ended_at is null),"
        " (select count(*) from trees r where r.task_id = t.id) from tasks t where id::text = %s",
        task.id,
    )
    return TaskEvidence(
        plan=task.plan,
        id=task.id,
        rest=run.user.get(f"/v1/tasks/{task.id}"),
        events=run.user.events(task.id),
        seen=list(task.subscriber.seen) if task.subscriber else [],
        asks=asks,
        steps={step: at.timestamp() for step, at in rows(_STEPS, task.id)},
        model_calls=[_model_call(*row) for row in rows(_MODEL_CALLS, task.id)],
        tool_calls=[
            ToolCall(step, index, use, output, bool(is_error), at.timestamp(), (ended or at).timestamp())
            for step, index, use, output, is_error, at, ended in rows(_TOOL_CALLS, task.id)
        ],
        head=head,
        commits=len(git_host.git(repo, "rev-list", f"main..{branch}").split()) if head else 0,
        tree=read_tree(git_host, repo, branch) if head else {},
        pulls=[pull for pull in run.deployment.github.pulls(repo) if pull["head"]["ref"] == branch],
        retries=task.retries,
        trouble=list(task.trouble),
        reserved_usd=float(reserved),
        open_attempts=int(attempts),
        kept_trees=int(trees),
    )


_STEPS = "select step, created_at from steps where task_id::text = %s order by step"
_MODEL_CALLS = (
    'select step, state, started_at, ended_at, cost_usd from model_calls where task_id::text = %s order by step, "try"'
)
_TOOL_CALLS = (
    "select step, index, tool_use_id, output, is_error, created_at, finished_at from tool_calls"
    " where task_id::text = %s order by step, index"
)


def _model_call(step: int, state: str, started: datetime, ended: datetime | None, cost: Any) -> ModelCall:
    return ModelCall(step, state, started.timestamp(), (ended or started).timestamp(), float(cost or 0))


def _asks(run: Run) -> tuple[dict[str, list[Ask]], list[str]]:
    """By the name of the plan; and those that no plan has."""
    known = {task.plan.name for task in run.tasks}
    offset = time.time() - time.monotonic()
    found: dict[str, list[Ask]] = {}
    strangers = []
    for request in run.deployment.model.requests:
        if request.trajectory in known and request.turn is not None:
            ask = Ask(request.arrived_at + offset, request.turn + 1, _results(request))
            found.setdefault(str(request.trajectory), []).append(ask)
        else:
            strangers.append(f"{request.trajectory}: {request.status} {request.error}")
    return found, strangers


def _results(request: ModelRequest) -> dict[str, str]:
    """Tool results of its newest turn, by the call's id."""
    content = request.body["messages"][-1]["content"]
    blocks = content if isinstance(content, list) else []
    return {block["tool_use_id"]: str(block.get("content")) for block in blocks if block["type"] == "tool_result"}


def _branches(git_host: GitServer, repo: str) -> dict[str, str]:
    return {name.removeprefix("refs/heads/"): sha for name, sha in git_host.refs(repo).items()}


def read_tree(git_host: GitServer, repo: str, branch: str) -> Tree:
    """What a branch points to."""
    tree: Tree = {}
    directory = git_host.path(repo)
    for line in run_git("ls-tree", "-r", "-z", branch, cwd=directory).split("\0"):
        if line:
            about, _, path = line.partition("\t")
            mode, _kind, blob = about.split()
            tree[path] = (mode, run_git("cat-file", "blob", blob, cwd=directory))
    return tree
