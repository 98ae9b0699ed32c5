"""Every error as a response: one line of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from sfsc.errors import SfscError
from sfsc.gallery.store import StoreUnavailable
from sfsc.serving.guard import error_response
from sfsc.serving.service import Service, UnknownId
from sfsc.serving.worker import Busy

RETRY_SECONDS = "1"
REFUSALS = (SfscError, Busy, RequestValidationError, ValidationError, HTTPException)


def refusal(error: Exception, service: Service) -> Response:
    """Return the response to an error that is one of `REFUSALS`."""
    if isinstance(error, SfscError):
        status = 404 if isinstance(error, UnknownId) else 503 if isinstance(error, StoreUnavailable) else 422
        return error_response(status, str(error))
    if isinstance(error, Busy):
        service.metrics.rejected.labels(str(error)).inc()
        return error_response(
            429, "too many requests are waiting: try again later", {"Retry-After": RETRY_SECONDS}
        )
    if isinstance(error, HTTPException):
        return error_response(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return error_response(422, _one_line([(one["loc"], one["msg"]) for one in found]))
    assert isinstance(error, RequestValidationError)
    return error_response(422, _one_line([(one["loc"][1:], one["msg"]) for one in error.errors()]))


def _one_line(problems: Sequence[tuple[Sequence[Any], str]]) -> str:
    """Say where a request is wrong and why, as in "top: Input should be less than or equal to 100"."""
    return "; ".join(f"{'.'.join(map(str, place))}: {text}" if place else text for place, text in problems)
