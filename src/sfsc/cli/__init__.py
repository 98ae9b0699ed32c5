"""The command line: every command is one call of the public API."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from sfsc.cli import data, deploying, runs, searching, training
from sfsc.errors import SaidElsewhere, SfscError, missing_extra

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
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
        return
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        message = str(missing_extra(error.name, EXTRA_OF[error.name]))
    except SaidElsewhere:
        _refuse()
    except SfscError as error:
        message = str(error)
    # Here the traceback is gone, and with it a progress bar that would be drawn after the message.
    print(f"sfsc: {message}", file=sys.stderr)
    _refuse()


def _refuse() -> NoReturn:
    """Exit with code 2; as one rank of several at once, for the threads of gloo may abort a tidy exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2)
    sys.exit(2)
