"""The registry of agents: data that fits what the runtime knows."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent_runtime.tools import TOOLS
from infra.agents import AGENTS, DEFAULT_AGENT, AgentDefinition


def test_every_agent_names_tools_that_the_runtime_has() -> None:
    assert DEFAULT_AGENT in AGENTS
    for name, agent in AGENTS.items():
        assert agent.name == name
        assert set(agent.tools) <= set(TOOLS)


def test_what_an_agent_cannot_be_is_refused() -> None:
    for wrong in ({"max_steps": 0}, {"task_wall_clock": -1.0}, {"command_timeout": 0.0}, {"wall_clock": 5.0}):
        with pytest.raises(ValidationError):
            AgentDefinition.model_validate({"name": "a", "instructions": "", "tools": (), **wrong})
