"""The `equipoise` command: finds the subcommands that each part contributes.

Owns the top-level help and the one-line form of errors. Must not import any
part: subcommands arrive through the entry-point group `equipoise.commands`, and
an entry point's extra says what to install where a package is missing.

Exit codes: 0 done; 1 a check failed; 2 wrong usage or refused input;
3 not enough evidence (gate); 130 interrupted.
"""

from __future__ import annotations

import difflib
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from server import __version__
from server.errors import EquipoiseError, Refused

GROUP = "equipoise.commands"
ORDER = ("serve", "recommend", "events", "bundle", "train", "evaluate", "load", "invariants", "gate")


def _missing_extra(point: EntryPoint, missing: str | None) -> click.ClickException:
    extra = point.extras[0] if point.extras else None
    hint = f"pip install 'equipoise[{extra}]'" if extra else "reinstall equipoise"
    error = click.ClickException(
        f"'equipoise {point.name}' needs the package {missing!r}, which is not installed: {hint}"
    )
    error.exit_code = 2
    return error


class Parts(click.Group):
    """A group whose commands live in other packages and are imported when they are asked for."""

    def _points(self) -> dict[str, EntryPoint]:
        found = {point.name: point for point in entry_points(group=GROUP)}
        rank = {name: place for place, name in enumerate(ORDER)}
        return {name: found[name] for name in sorted(found, key=lambda n: (rank.get(n, 99), n))}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = self._points().get(cmd_name)
        if point is None:
            return None
        command: click.Command = point.load()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            near = difflib.get_close_matches(args[0], self._points(), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            point = self._points().get(ctx.invoked_subcommand or "")
            top = (missing.name or "").partition(".")[0]
            if point is None or top in {"server", "training", "bench"}:
                raise
            raise _missing_extra(point, missing.name) from missing


@click.group(cls=Parts, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="equipoise")
def command() -> None:
    """Personalised recommendations that are provably fair.

    \b
    A first round:
      make demo                                     the whole story on real purchases
      equipoise serve --bundle out/demo/bundle      serve a bundle over gRPC
      equipoise recommend --user 1 --count 10       ask the server for a list
      equipoise COMMAND --help                      each command explains itself
    """


def main() -> None:
    """Run the command; errors of the domain become one line on standard error."""
    try:
        command(standalone_mode=True)
    except Refused as refused:
        click.echo(f"Error: {refused}", err=True)
        sys.exit(2)
    except EquipoiseError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        click.echo(f"Error: {error.strerror or error}{where}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
