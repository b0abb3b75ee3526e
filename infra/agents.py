"""The registry of agents. An agent is data: a second one is a second entry, and no code."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from agent_runtime.protocol import Agent


class AgentDefinition(BaseModel):
    """What an agent is: its instructions, the tools it may use, its model route and its limits.

    `model` None takes the task's model. `max_tokens` bounds one answer, `max_steps` the model calls of one attempt
    (None: the deployment's FARHAND_MAX_STEPS).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    instructions: str
    tools: tuple[str, ...]
    model: str | None = None
    max_tokens: int = 16_000
    max_steps: int | None = None

    def as_job(self, network: str) -> Agent:
        """`network` says what the sandbox reaches; it becomes the end of the instructions."""
        return {
            "name": self.name,
            "instructions": f"{self.instructions}\n\n{network}",
            "tools": list(self.tools),
            "max_tokens": self.max_tokens,
        }


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
