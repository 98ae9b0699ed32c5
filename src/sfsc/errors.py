"""Errors that a user can cause."""

from __future__ import annotations


class SfscError(Exception):
    """Raised for a user's mistake or a broken input.

    The message is one line. It names the file or argument, says what is wrong and how to fix it. The command
    line prints the message and exits with code 2.
    """


class SaidElsewhere(SfscError):
    """Raised for an error that another rank of the same job prints."""


def missing_extra(package: str, extra: str) -> SfscError:
    """Return the error for an optional dependency that is not installed."""
    return SfscError(f"{package} is not installed: pip install 'sfsc[{extra}]'")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to about 200 characters.

    If the first line is a heading that ends in a colon, the next line is added. If the message is empty, the
    name of the error's class is returned.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return one_line(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0], 200)


def one_line(text: str, longest: int = 2000) -> str:
    """Return the text as one readable line.

    Characters that are not printable (line feeds, escape sequences) are escaped, and the line is cut after
    `longest` characters.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= longest else f"{text[:longest].rstrip()} ..."
