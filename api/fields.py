"""Types of request fields. What a field refuses is said here, once, for REST and for the stream."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Annotated

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from infra.egress import MAX_HOST_CHARS, MAX_HOSTS
from infra.environment import MAX_IMAGE_CHARS, MAX_SCRIPT_CHARS, MAX_VARIABLES

MAX_PROMPT_CHARS = 100_000
_FORBIDDEN_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/|\.lock$|^[-./]|[./]$|^@$")


# An address is a name to log in with, no mail is sent: names that exist only at home (`me@box.local`) are welcome.
SPECIAL_USE_DOMAIN_NAMES.clear()


class Request(BaseModel):
    """Base of every request body: no unknown fields, and no value is turned into another type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _single_line(value: str) -> str:
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in value):
        raise ValueError("must not contain line breaks or control characters")
    return value


def _multi_line(value: str) -> str:
    if any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in value):
        raise ValueError("must not contain control characters other than line feed and tab")
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _branch(value: str) -> str:
    """The rules of `git check-ref-format --branch`; a leading `-` would be read as an option."""
    if _FORBIDDEN_IN_REF.search(value) or value.startswith("refs/"):
        raise ValueError("must be the short name of a git branch, such as main or release/1.2")
    return value


def _number(value: object) -> Decimal:
    """Strict pydantic takes no float for a Decimal; JSON knows nothing else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number")  # noqa: TRY004  (pydantic reports ValueErrors)
    return Decimal(str(value))


def _email(value: str) -> str:
    try:
        return validate_email(value, check_deliverability=False, globally_deliverable=False).normalized
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


EgressHosts = Annotated[list[Annotated[str, Field(max_length=MAX_HOST_CHARS)]], Field(max_length=MAX_HOSTS)]
ImageName = Annotated[str, Field(min_length=1, max_length=MAX_IMAGE_CHARS)]
Script = Annotated[str, Field(min_length=1, max_length=MAX_SCRIPT_CHARS), AfterValidator(_multi_line)]
Variables = Annotated[dict[str, str], Field(max_length=MAX_VARIABLES)]
SecretChanges = Annotated[dict[str, str | None], Field(max_length=2 * MAX_VARIABLES)]
Line = Annotated[str, Field(max_length=200), AfterValidator(_single_line)]
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_single_line), AfterValidator(_multi_line)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS), AfterValidator(_multi_line)]
Secret = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_single_line)]
Url = Annotated[str, Field(min_length=1, max_length=2000)]
BranchName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_branch)]
Usd = Annotated[Decimal, BeforeValidator(_number), Field(gt=0, max_digits=12, decimal_places=6)]
Email = Annotated[str, Field(max_length=254), AfterValidator(_email)]
Password = Annotated[str, Field(min_length=8, max_length=1000)]
