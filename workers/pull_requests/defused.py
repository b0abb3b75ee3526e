"""Text of users and models that is put where a git host would obey it: mentions, references, closing words, HTML."""

from __future__ import annotations

import re

_BREAK = "\N{ZERO WIDTH SPACE}"

# Each is broken behind its first part. Entities too, as `&#64;name` is a mention once it is rendered.
_OBEYED = re.compile(
    r"(?P<mention>@)(?=\w)"
    r"|(?P<reference>#|\bGH-)(?=\d)"
    r"|(?P<address>/(?:issues|pulls?|discussions|commit)/)(?=\w)"
    r"|(?P<entity>&)(?=#?\w+;)"
    r"|(?P<tag><)(?=[A-Za-z/!?])",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_FENCE = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<rest>.*)")


def defused(text: str) -> str:
    """The same to the eye, but it pings nobody, links no issue and closes none, and holds no HTML.

    Also where it is no Markdown: a merge may make a commit message of it.
    """
    plain = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
    return _OBEYED.sub(lambda found: found[0] + _BREAK, plain)


def one_line(text: str, most: int) -> str:
    """The first line with something in it, at most `most` characters."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first if len(first) <= most else first[: most - 1].rstrip() + "…"


def shortened(text: str, most: int) -> str:
    text = text.strip()
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def fenced(text: str) -> str:
    """As a block of code that the text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def closed(markdown: str) -> str:
    """With an end for a block of code that has none: it would swallow all that comes after it."""
    fence = ""
    for line in markdown.splitlines():
        found = _FENCE.fullmatch(line)
        if found is None:
            continue
        mark = found["mark"]
        if not fence:
            fence = "" if mark[0] == "`" and "`" in found["rest"] else mark
        elif mark.startswith(fence) and not found["rest"].strip():
            fence = ""
    return f"{markdown}\n{fence}" if fence else markdown
