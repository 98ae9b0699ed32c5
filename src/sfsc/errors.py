"""The errors that a user can cause."""

from __future__ import annotations


class SfscError(Exception):
    """A user's mistake or a broken input: one line that names the thing and the remedy."""


class SaidElsewhere(SfscError):
    """An error that another rank of the same job prints."""


def missing_extra(package: str, extra: str) -> SfscError:
    """The error for an optional dependency that is not installed."""
    return SfscError(f"{package} is not installed: pip install 'sfsc[{extra}]'")


def first_line(error: BaseException) -> str:
    """What an error says, in one line of some 200 characters at most; its class where it says nothing.

    A heading, which ends in a colon, says nothing alone: the line below it is taken, too.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return one_line(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0], 200)


def one_line(text: str, longest: int = 2000) -> str:
    """The text in one line that a person can read.

    What is not printable (line feeds, escape sequences) is escaped, and what is beyond `longest` characters
    is left out.
    """
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return line if len(line) <= longest else f"{line[:longest].rstrip()} ..."
