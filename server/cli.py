"""The `equipoise` command: finds the subcommands that each part contributes.

Owns the top-level help and the one-line form of errors. Must not import any
part: subcommands arrive through the entry-point group `equipoise.commands`, and
an entry point's extra says what to install where a package is missing.

Exit codes: 0 done; 1 a check failed; 2 wrong usage or refused input;
3 not enough evidence (gate); 130 interrupted.
"""

from __future__ import annotations

import signal
import sys

import click

from server import __version__
from server.commands.parts import Parts
from server.errors import EquipoiseError, Refused, in_one_line

GROUP = "equipoise.commands"
INTERRUPTED = 130
ORDER = (
    "serve",
    "gateway",
    "recommend",
    "events",
    "bundle",
    "train",
    "sweep",
    "evaluate",
    "cross-validate",
    "audit",
    "load",
    "invariants",
    "gate",
)


@click.group(
    cls=Parts,
    entry_points=GROUP,
    order=ORDER,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="equipoise")
def command() -> None:
    """Personalised recommendations that are provably fair.

    \b
    A first round:
      make demo                                   all of it on real purchases
      equipoise serve --bundle out/demo/bundle    serve a bundle over gRPC
      equipoise recommend --user 1 --count 10     ask the server for a list
      equipoise COMMAND --help                    each command explains itself
    """


def main() -> None:
    """Run the command; errors of the domain become one line on standard error.

    SIGTERM is treated as Ctrl-C, so that what a command cleans up on the one it cleans up on
    the other (`serve` has handlers of its own: it drains).
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = command(standalone_mode=False)
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


if __name__ == "__main__":
    main()
