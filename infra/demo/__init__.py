"""What `farhand demo` works on: a repository with a failing test, and the recording of an agent that mends it."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "sample"
"""The files of the repository, each with `.sample` after its name: they are not part of this program."""
RECORDINGS = Path(__file__).parent / "recordings"
"""`demo.json`, for `model: replay:demo`; its edits fit the sample."""
PROMPT = "The tests of this repository fail. Find out why, and make them pass."
