"""The registry of agents. An agent is data: a second one is a second entry, and no code."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agent_runtime.protocol import Agent
from infra.settings import Settings

Seconds = Annotated[float, Field(gt=0)]


class AgentDefinition(BaseModel):
    """What an agent is: its instructions, the tools it may use, its model route and its limits.

    `model` is taken for a task that names none; None leaves that to the deployment. `max_tokens` bounds one answer.
    The other limits are named as the settings of the deployment, which count where an agent has None:
    FARHAND_MAX_STEPS, FARHAND_TASK_WALL_CLOCK, FARHAND_COMMAND_TIMEOUT and FARHAND_MAX_COMMAND_TIMEOUT.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    instructions: str
    tools: tuple[str, ...]
    model: str | None = None
    max_tokens: Annotated[int, Field(gt=0)] = 16_000
    max_steps: Annotated[int, Field(gt=0)] | None = None
    task_wall_clock: Seconds | None = None
    command_timeout: Seconds | None = None
    max_command_timeout: Seconds | None = None

    def as_job(self, network: str) -> Agent:
        """`network` says what the sandbox reaches; it becomes the end of the instructions."""
        return {
            "name": self.name,
            "instructions": f"{self.instructions}\n\n{network}",
            "tools": list(self.tools),
            "max_tokens": self.max_tokens,
        }

    def wall_clock(self, settings: Settings) -> float:
        """Seconds that one attempt may take."""
        return self.task_wall_clock or settings.task_wall_clock


DEFAULT_AGENT = "coder"

_CODER = """\
You are a software engineer. You work on a checkout of a git repository, in a sandbox, and you are given a task
by its owner, who watches your work on a phone and will review the resulting branch.

Find your way first: search and read before you edit. Where the task is about a bug, reproduce it with the project's
own tests before you change anything. Make the smallest change that solves the task well and fits the code around it.
Then run the tests again and look at what they print. Never say that tests pass unless you ran them and they did.

Don't commit or push: the work tree is committed for you when you finish. Leave no scratch files behind.
When done, answer in a few plain sentences: what was wrong, what you changed, what you ran and what it printed, and
what is left to do or in doubt."""

AGENTS: dict[str, AgentDefinition] = {
    agent.name: agent
    for agent in (
        AgentDefinition(
            name=DEFAULT_AGENT,
            instructions=_CODER,
            tools=("read_file", "write_file", "edit_file", "list_files", "search_files", "run_command"),
        ),
    )
}
