"""The command line: every command is one call of the public API."""

from __future__ import annotations

import io
import os
import sys
from typing import NoReturn

import typer

from sfsc.cli import bridging, data, deploying, galleries, indexing, runs, searching, serving, training
from sfsc.errors import SaidElsewhere, SfscError, missing_extra, one_line
from sfsc.interruption import Interrupted, Stopped, answered
from sfsc.progress import is_silent_rank

app = typer.Typer(
    help="Visual search across platforms: one training run, nested sub-models, one embedding space.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
for commands in (training, runs, deploying, indexing, searching, serving, bridging):
    app.add_typer(commands.app)
app.add_typer(galleries.app, name="gallery")

EXTRA_OF = dict.fromkeys(
    ["torch", "kornia", "safetensors", "pydantic", "yaml", "matplotlib", "jinja2"], "train"
) | dict.fromkeys(["faiss", "filelock", "lance", "pyarrow"], "gallery")


def main() -> None:
    """Run the command line.

    A user's mistake prints one line on standard error and exits with code 2. A signal prints one line and
    exits with code 130 for SIGINT and 143 for SIGTERM.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # workers must not import modules from the working folder either
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # like standard error, for names that are not UTF-8
    try:
        with answered():
            app()
            return
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        code, message = 2, str(missing_extra(error.name, EXTRA_OF[error.name]))
    except (SfscError, OSError, Interrupted) as error:
        code, message = _answer(error)
    # The traceback is gone here, and with it a progress bar that would be drawn after the message.
    if message:
        print(f"sfsc: {one_line(message)}", file=sys.stderr)
    _leave(code)


def _answer(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message for an error; the message is empty if another rank prints it."""
    match error:
        case SaidElsewhere():
            return 2, ""
        case Stopped():
            return 128 + error.number, str(error)
        case Interrupted():
            how = getattr(error, "__notes__", [])
            return 128 + error.number, "" if is_silent_rank() else ": ".join([str(error), *how])
        case OSError() if error.filename:  # for example a path without read permission, or a long name
            return 2, f"{error.strerror}: {error.filename}"
    return 2, str(error)


def _leave(code: int) -> NoReturn:
    """Exit. One of several ranks exits at once, because the threads of gloo may abort an orderly exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
