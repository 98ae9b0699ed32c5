"""Running a service as a process: opening its socket, and shutting down on a signal."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType

from sfsc.errors import SfscError, missing_extra
from sfsc.interruption import end_at_once
from sfsc.report import terminal
from sfsc.serving.app import create_app
from sfsc.serving.guard import HOST

try:
    import uvicorn

    from sfsc.serving.connections import limited_connections
except ModuleNotFoundError as error:
    raise missing_extra("uvicorn", "serve") from error

GRACE_SECONDS = 30  # for requests in flight at the shutdown


def serve(
    run: Path,
    gallery: str,
    host: str,
    port: int,
    api_key: str | None,
    origins: Collection[str],
    hosts: Collection[str] = (),
    image_roots: Sequence[Path] | None = None,
    proxies: Sequence[str] = (),
    root_path: str = "",
    allow_code: str | None = None,
    memory: float = math.inf,
    bridge: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and finish all accepted requests. A second signal ends it at once.

    SIGTERM is the normal way to end a service. SIGINT has the same effect as in other commands.

    Args:
        run: as for `create_app`.
        gallery: as for `create_app`.
        host: the address or name to listen on. A name is allowed in addition to `hosts`.
        port: the port to listen on; 0 chooses a free port.
        api_key: as for `create_app`.
        origins: as for `create_app`.
        hosts: as for `create_app`.
        image_roots: as for `create_app`.
        proxies: the addresses of reverse proxies that are trusted to report the address and the scheme of a
            client.
        root_path: the prefix that a proxy removes from the path of every request.
        allow_code: as for `create_app`.
        memory: as for `create_app`.
        bridge: as for `create_app`.

    Raises:
        SfscError: the port is in use or not allowed, or as for `create_app`.
        SystemExit: with code 0 after SIGTERM.
    """
    signal.signal(signal.SIGTERM, _leave)
    with _listening(host, port) as listener:
        names = [*hosts, *([host.lower()] if HOST.fullmatch(host.lower()) else [])]
        app = create_app(run, gallery, api_key, origins, names, image_roots, allow_code, memory, bridge)
        terminal.print_serving(host, listener.getsockname()[1], app.state.service.roots, api_key is not None)
        config = uvicorn.Config(
            app,
            http=limited_connections(),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=[*proxies],
            root_path=root_path,
        )
        # uvicorn takes over the signals, and raises them again when all requests are finished.
        _Server(config).run([listener])


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            end_at_once(sig)
        super().handle_exit(sig, frame)


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise SfscError(f"cannot listen on {host}, port {port} ({reason}): choose another port") from None
