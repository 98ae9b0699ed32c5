"""The command that serves a gallery over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfsc.cli.options import GALLERY_HELP, AllowCodeOption, MemoryOption, RunArgument, most_bytes

app = typer.Typer()


@app.command()
def serve(
    run: RunArgument,
    gallery: Annotated[str, typer.Option(help=f"{GALLERY_HELP}.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free port.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="SFSC_API_KEY", help="Key that every request must send in X-API-Key."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Origin whose pages may use the service; repeatable."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Additional host name of the service, next to --host; repeatable; * for any.",
        ),
    ] = None,
    images_root: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder whose images may be shown; repeatable; default: the folder with all images.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Reverse proxy whose forwarded headers are trusted; repeatable."
        ),
    ] = None,
    root_path: Annotated[str, typer.Option(help="Path under which a proxy serves the service.")] = "",
    bridge: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For a gallery of an old model: bridge from it to this family."),
    ] = None,
    memory: MemoryOption = None,
    allow_code: AllowCodeOption = None,
) -> None:
    """Serve a gallery over HTTP, with a search page for the browser, until SIGTERM or Ctrl-C."""
    from sfsc.serving.running import serve as run_service

    run_service(
        run,
        gallery,
        host,
        port,
        api_key=api_key,
        origins=allow_origin or (),
        hosts=allow_host or (),
        image_roots=images_root,
        proxies=proxy or (),
        root_path=root_path,
        allow_code=allow_code,
        memory=most_bytes(memory),
        bridge=bridge,
    )
