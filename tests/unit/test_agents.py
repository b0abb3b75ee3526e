"""The registry of agents: data that fits what the runtime knows."""

from __future__ import annotations

from agent_runtime.tools import TOOLS
from infra.agents import AGENTS, DEFAULT_AGENT, AgentDefinition


def test_every_agent_names_tools_that_the_runtime_has() -> None:
    assert DEFAULT_AGENT in AGENTS
    for name, agent in AGENTS.items():
        assert agent.name == name
        assert set(agent.tools) <= set(TOOLS)


def test_a_second_agent_is_data() -> None:
    reviewer = AgentDefinition(name="reviewer", instructions="Read.", tools=("read_file",), model="claude-haiku")
    assert reviewer.as_job("No network.") == {
        "name": "reviewer",
        "instructions": "Read.\n\nNo network.",
        "tools": ["read_file"],
        "max_tokens": reviewer.max_tokens,
    }
