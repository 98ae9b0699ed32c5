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
    """What an error says, in one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
