"""A command group whose subcommands are contributed by installed packages.

Owns finding them through an entry-point group, and the line that says which extra to install
where a package is missing. Must not import any part: an entry point is loaded when its command
is asked for.

    @click.group(cls=Parts, entry_points="equipoise.commands")
    def command() -> None: ...
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import click

OWN_PACKAGES = {"server", "training", "bench"}


def _install(point: EntryPoint) -> str:
    # From the checkout: a package index may know another project by this name.
    extra = point.extras[0] if point.extras else None
    return f"pip install '.[{extra}]' in its checkout" if extra else "reinstall equipoise"


class _MissingExtra(click.ClickException):
    exit_code = 2


def _missing_extra(path: str, point: EntryPoint, missing: str | None) -> click.ClickException:
    error = _MissingExtra(
        f"'{path}' needs the package {missing!r}, which is not installed: {_install(point)}"
    )
    return error


def _foreign(missing: ModuleNotFoundError) -> bool:
    """Whether a package of others is missing, and not a module of this repository."""
    return (missing.name or "").partition(".")[0] not in OWN_PACKAGES


class Parts(click.Group):
    """A group with commands of its own and those of the entry-point group `entry_points`.

    order: names that come first in the help, in this order.
    """

    def __init__(
        self, *args: Any, entry_points: str, order: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._entry_points = entry_points
        self._order = {name: place for place, name in enumerate(order)}

    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self._entry_points)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {*self.commands, *self._points()}
        return sorted(names, key=lambda name: (self._order.get(name, len(self._order)), name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = self._points().get(cmd_name)
        if cmd_name in self.commands or point is None:
            return super().get_command(ctx, cmd_name)
        try:
            command: click.Command = point.load()
        except ModuleNotFoundError as missing:
            if not _foreign(missing):
                raise
            return self._absent(ctx, point, missing.name)
        return command

    def _absent(self, ctx: click.Context, point: EntryPoint, missing: str | None) -> click.Command:
        """Stands in for a command that cannot be imported, so that the help still lists it."""

        def explain(rest: tuple[str, ...]) -> NoReturn:
            raise _missing_extra(f"{ctx.command_path} {point.name}", point, missing)

        return click.Command(
            point.name,
            callback=explain,
            params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
            help=f"Not installed: {_install(point)}",
            context_settings={"ignore_unknown_options": True},
        )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as missing:
            point = self._points().get(ctx.invoked_subcommand or "")
            if point is None or not _foreign(missing):
                raise
            path = f"{ctx.command_path} {point.name}"
            raise _missing_extra(path, point, missing.name) from missing
