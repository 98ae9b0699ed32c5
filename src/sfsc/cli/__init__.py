"""The command line: every command is one call of the public API."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from sfsc.cli import data, deploying, runs, searching, training
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
for commands in (training, runs, deploying, searching):
    app.add_typer(commands.app)

EXTRA_OF = dict.fromkeys(
    ["torch", "kornia", "safetensors", "pydantic", "yaml", "matplotlib", "jinja2"], "train"
)


def main() -> None:
    """Run the command line.

    A user's mistake is one line on standard error and exit code 2. A signal to end is one line and 130 for
    SIGINT, 143 for SIGTERM.
    """
    try:
        with answered():
            app()
            return
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        code, message = 2, str(missing_extra(error.name, EXTRA_OF[error.name]))
    except SaidElsewhere:
        code, message = 2, ""
    except Stopped as stopped:
        code, message = 128 + stopped.number, str(stopped)
    except Interrupted as stop:
        code = 128 + stop.number
        message = "" if is_silent_rank() else ": ".join([str(stop), *getattr(stop, "__notes__", [])])
    except SfscError as error:
        code, message = 2, str(error)
    except (
        OSError
    ) as error:  # what the system refuses: a folder that may not be read, a name that is too long
        code, message = 2, f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    # Here the traceback is gone, and with it a progress bar that would be drawn after the message.
    if message:
        print(f"sfsc: {one_line(message)}", file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exit; as one rank of several at once, for the threads of gloo may abort a tidy exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
