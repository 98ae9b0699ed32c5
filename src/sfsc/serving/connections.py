"""Limits on the number of connections to the service, and on the header of a request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

MOST_CONNECTIONS = 500
HEADER_SECONDS = 10.0  # from the start of a connection, or the last response on it, to the end of a header
MOST_HEADER = 64 * 1024  # bytes of a header, in addition to one read of the socket
CHUNK = 16  # bytes that the transfer of a chunk of a body adds to it, at most

Base: Any = AutoHTTPProtocol  # mypy cannot know this class, which depends on what is installed ("misc" below)
PARSED_IN_C = hasattr(Base, "on_body")  # by httptools, which has no limit for headers; h11 has one


def limited_connections(most: int = MOST_CONNECTIONS, seconds: float = HEADER_SECONDS) -> type[Any]:
    """Return uvicorn's HTTP protocol with limits, for one server.

    A connection is closed if it waits too long for a request. If there are too many connections, a new one
    replaces the one that has waited longest, or is closed if none is waiting. Clients that send nothing, or
    only half a header, therefore cannot lock out others. A connection with too long a header is closed.

    Args:
        most: the maximum number of connections.
        seconds: the time in which a client must complete the header of a request.
    """
    waiting: dict[Any, asyncio.TimerHandle] = {}  # in the order in which they began to wait

    class Connection(Base):  # type: ignore[misc]
        """A connection to one client."""

        _header_bytes = 0  # received since the start of a message, without the body

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                oldest = next(iter(waiting), None)
                (oldest or self).transport.abort()
                if oldest is None:
                    return
                oldest._stop_waiting()
            self._wait()

        def data_received(self, data: bytes) -> None:
            self._header_bytes += len(data)
            super().data_received(data)
            if PARSED_IN_C and self._header_bytes > MOST_HEADER:
                self.transport.abort()
                return
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._header_bytes = 0

        def on_body(self, body: bytes) -> None:
            super().on_body(body)
            self._header_bytes = max(0, self._header_bytes - len(body) - CHUNK)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait()

        def connection_lost(self, error: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(error)

        def _wait(self) -> None:
            self._stop_waiting()
            if not self.transport.is_closing():
                waiting[self] = self.loop.call_later(seconds, self.transport.abort)

        def _stop_waiting(self) -> None:
            if timer := waiting.pop(self, None):
                timer.cancel()

    return Connection
