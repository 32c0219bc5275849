"""The `equipoise` command: finds the subcommands that each part contributes.

Owns the top-level help. Must not import any part: subcommands arrive through the entry-point group `equipoise.commands`, and
an entry point's extra says what to install where a package is missing.
Exit codes are those of `server.program`.
"""

from __future__ import annotations

import click

from server import __version__
from server.commands.parts import Parts
from server.program import run_program

GROUP = "equipoise.commands"
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
    """Run the command."""
    run_program(command)


if __name__ == "__main__":
    main()
