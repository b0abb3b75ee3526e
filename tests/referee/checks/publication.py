"""One task, one branch with the right commit, one pull request, and nothing else at the git host (G8)."""

from __future__ import annotations

from tests.referee.checks.finding import Finding
from tests.referee.evidence import Evidence, TaskEvidence


def check(evidence: Evidence) -> Finding:
    finding = Finding()
    for repo, branches in evidence.branches.items():
        known = {f"farhand/{task.id}" for task in evidence.tasks if task.plan.repo == repo}
        for branch in sorted(branches.keys() - known - {"main"}):
            finding.wrong(f"{repo} has a branch {branch} that is no task's")
        if branches.get("main") != evidence.bases[repo]:
            finding.wrong(f"{repo}: main was moved to {branches.get('main')}")
    for task in evidence.tasks:
        _check_branch(task, finding)
        _check_pull_request(task, finding)
    return finding


def _check_branch(task: TaskEvidence, finding: Finding) -> None:
    name = task.plan.name
    if task.rest["head_sha"] != task.head:
        finding.wrong(f"{name}: its branch is at {task.head}, and its row says {task.rest['head_sha']}")
    pushed = [event["data"]["sha"] for event in task.events if event["type"] == "branch_pushed"]
    if len(pushed) != len(set(pushed)) or (pushed[-1] if pushed else None) != task.head:
        finding.wrong(f"{name}: its events tell of pushes {pushed}, and its branch is at {task.head}")
    if task.plan.pushes and not task.head:
        finding.wrong(f"{name}: it has no branch")
    if not task.plan.pushes and task.head:
        finding.wrong(f"{name}: it has a branch, and did not complete")
    if task.plan.pushes and not 1 <= task.commits <= len(task.plan.rounds):
        finding.wrong(f"{name}: its branch has {task.commits} commits, of {len(task.plan.rounds)} rounds")


def _check_pull_request(task: TaskEvidence, finding: Finding) -> None:
    name, wanted = task.plan.name, 1 if task.plan.pushes else 0
    if len(task.pulls) != wanted:
        finding.wrong(f"{name}: it has {len(task.pulls)} pull requests, not {wanted}")
    told = [event["data"]["number"] for event in task.events if event["type"] == "pull_request"]
    if told != [pull["number"] for pull in task.pulls]:
        finding.wrong(f"{name}: its events tell of pull requests {told}")
    known = (task.rest["pull_request"] or {}).get("number")
    if task.pulls and known != task.pulls[-1]["number"]:
        finding.wrong(f"{name}: its row knows pull request {known}")
