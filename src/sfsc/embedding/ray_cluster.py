"""The connection to a Ray cluster, and its failures in one line."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from sfsc.errors import SfscError, first_line, one_line

ADDRESS = "RAY_ADDRESS"
SECONDS = 10.0  # for the answer of a cluster; Ray itself waits for minutes


def connect() -> None:
    """Connect this process to the cluster that RAY_ADDRESS names, or start Ray on this machine without it.

    Raises:
        SfscError: the cluster does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get(ADDRESS, "local")
    try:
        _check(address)
        # Workers import modules from the folder of this call, which must not be the working folder.
        with contextlib.chdir(os.sep):
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise SfscError(
            f"no Ray cluster answers at {ADDRESS}={address} ({first_line(error)}): start it, correct the "
            f"address or the token in RAY_AUTH_TOKEN, or unset {ADDRESS} to embed on this machine"
        ) from None


def _check(address: str) -> None:
    """Raise `OSError` or `ValueError` if nothing listens at an address that has a port."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), SECONDS).close()


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Raise `SfscError` in place of the errors of a cluster and of the actors on it."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        cause = str(error).strip().splitlines()[-1]  # an actor's error is the last line of its traceback
        raise SfscError(f"Ray failed: {one_line(cause, 500)}") from error
