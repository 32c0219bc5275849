"""A command-line program from its start to its exit code, the same for `equipoise` and for `python -m`.

Owns the one-line form of errors. Exit codes: 0 done; 1 a check failed; 2 wrong usage or refused input;
3 not enough evidence (gate); 130 interrupted.
"""

from __future__ import annotations

import signal
import sys

import click

from server.errors import EquipoiseError, Refused, in_one_line

INTERRUPTED = 130


def run_program(program: click.Command) -> None:
    """Run it and exit; errors of the domain become one line on standard error.

    SIGTERM is treated as Ctrl-C, so that what a command cleans up on the one it cleans up on
    the other (`serve` has handlers of its own: it drains).
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = program(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except Refused as refused:
        click.echo(f"Error: {refused}", err=True)
        sys.exit(2)
    except (EquipoiseError, OSError) as error:
        click.echo(f"Error: {in_one_line(error)}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
