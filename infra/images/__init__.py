"""The agent image: what it is made of (`agent.Dockerfile`) and the one command that builds it (`build`)."""
