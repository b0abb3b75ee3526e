"""What a pull request says, and what it must not do: ping people, touch issues, or grow without bound."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.pull_requests.defused import closed, defused, fenced, one_line
from workers.pull_requests.description import body, renewed, title
from workers.pull_requests.facts import Facts, TestRun, is_test

# What GitHub looks for in text that it has rendered, and in commit messages.
MENTION = re.compile(r"@[a-z0-9]", re.IGNORECASE)
REFERENCE = re.compile(r"#\d|\bGH-\d|/(?:issues|pull|discussions)/\d", re.IGNORECASE)


def facts(**given_: object) -> Facts:
    values: dict[str, object] = {
        "prompt": "make it pass",
        "summary": "done",
        "steps": 1,
        "spent_usd": Decimal("0.5"),
        "tests": (),
        "link": "",
    }
    return Facts(**(values | given_))  # type: ignore[arg-type]


HARMFUL = [
    "thanks @octocat and @octo-org/team",
    "Fixes #1",
    "closes octo/repo#12",
    "Resolves GH-7",
    "fixes https://github.com/octo/repo/issues/1",
    "closes: https://github.com/octo/repo/pull/2",
    "&#64;octocat &commat;octocat fixes &#35;1 &num;1",
    "\\@octocat fixes \\#1",
    "`@octocat` **@octocat** [@octocat](x)",
    "<a href='https://evil.example'>@octocat</a><!-- farhand:end --><details>",
]


@pytest.mark.parametrize("text", HARMFUL)
def test_nobody_is_pinged_and_no_issue_is_closed(text: str) -> None:
    for shown in (title(text), body(facts(prompt=text, summary=text, tests=[TestRun(text, "exit code 0", False)]))):
        assert not MENTION.search(shown)
        assert not REFERENCE.search(shown)
        assert not re.search(r"&#?\w+;", shown)
        assert re.findall(r"<[^\u200b]\S*", shown) in ([], ["<!--", "<!--"])
    assert defused(text).replace("\u200b", "") == text
    assert defused(defused(text)) == defused(text)


@pytest.mark.parametrize(
    "text", ["a@b", "me@example.com", "x = #12", "@ home", "C# 7", "a & b; c", "1 < 2", "décor@tion"]
)
def test_the_rest_looks_as_it_did(text: str) -> None:
    assert defused(text).replace("\u200b", "") == text


@given(st.text(st.sampled_from("@#1aZ&;<!-/`~ \n\r\tGH\u202e\x00issues"), max_size=200))
def test_any_text(text: str) -> None:
    assert not MENTION.search(defused(text))
    assert not REFERENCE.search(defused(text))
    assert "\u202e" not in defused(text)
    inside = fenced(text).splitlines()
    assert inside[0].removesuffix("text") == inside[-1]
    assert inside[-1] not in inside[1:-1]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("```py\nx", "```"),
        ("~~~~\n~~~\nx", "~~~~"),
        ("````\n```\nx", "````"),
        ("```\nx\n```", ""),
        ("```\nx\n```\n```\ny", "```"),
        ("``` a`b\nx", ""),
        ("plain", ""),
    ],
)
def test_a_block_of_code_without_an_end_gets_one(text: str, end: str) -> None:
    assert closed(text) == (f"{text}\n{end}" if end else text)


def test_a_body() -> None:
    runs = [TestRun("python3 -m  unittest", "exit code 1", False), TestRun("make test", "timed out", True)]
    told = facts(prompt="make it\npass", summary="It works.", steps=3, tests=runs, link="https://f.example/tasks/1")
    assert (
        body(told)
        == """<!-- farhand:begin -->
It works.

### Task

```text
make it
pass
```

### Tests

Test commands that the agent ran, with the exit codes that were recorded:

```text
exit code 1  python3 -m unittest   (the files changed after this)
timed out    make test
```

---
Made by Farhand in 3 steps, $0.5000 · [task](https://f.example/tasks/1)
<!-- farhand:end -->"""
    )


def test_sizes_are_bounded() -> None:
    huge = "@a #1 &amp; <b> `" * 100_000
    runs = [TestRun(huge, "exit code 0", True)] * 10
    assert len(body(facts(prompt=huge, summary=huge, tests=runs))) < 61_000
    assert len(title(huge)) <= 256
    assert body(facts(prompt=huge, summary=huge)).endswith("<!-- farhand:end -->")
    assert "$0.5000" in body(facts(prompt=huge, summary=huge, tests=runs)), "no part is cut off at the end"


def test_titles() -> None:
    assert title("\n  make it pass  \nplease") == "make it pass"
    assert title("x" * 300).endswith("…")
    assert title(" \n") == "Farhand task"
    assert one_line("abcdef", 4) == "abc…"


def test_only_our_part_is_renewed() -> None:
    old, new = body(facts(summary="old")), body(facts(summary="new"))
    assert renewed(f"a\r\n{old}\r\nb", new) == f"a\n{new}\nb"
    assert renewed("theirs", new) == "theirs"
    assert renewed("theirs <!-- farhand:begin -->", new) == "theirs <!-- farhand:begin -->"
    assert renewed(old, old) == old


@pytest.mark.parametrize(
    "command",
    [
        "pytest -x",
        "python3 -m unittest -v",
        "cd app && npm run test:unit",
        "cargo test --all",
        "go test ./...",
        "make -j4 check",
        "./gradlew test",
        "python manage.py test",
        "bundle exec rspec",
        "tox -e py311",
        "ctest --output-on-failure",
        "dotnet test",
    ],
)
def test_what_runs_tests(command: str) -> None:
    assert is_test(command)


@pytest.mark.parametrize(
    "command", ["ls tests", "cat test_x.py", "git status", "make build; ls test", "npm install", ""]
)
def test_what_does_not(command: str) -> None:
    assert not is_test(command)
