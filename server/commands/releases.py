"""`equipoise bundle activate`, `rollback` and `releases`: which bundle of a folder serves."""

from __future__ import annotations

import json
from pathlib import Path

import click

ROOT = click.argument("root", type=click.Path(path_type=Path, file_okay=False))

ACTIVATE_EXAMPLES = """\b
Examples:
  equipoise bundle activate out/releases out/demo/bundle
  equipoise serve --bundle out/releases

A server that serves ROOT takes up the new release within `release_poll_s`, under load:
no call fails, and each response is of one release and names it. Exit code 0: it is active.
2: it was refused, and the line says which file and why; the pointer was not changed."""

ROLLBACK_EXAMPLES = """\b
Examples:
  equipoise bundle rollback out/releases

Exit code 0: the release before is active again. 2: there is none that could be served."""


CHECKING = "checking it as a server does; the first time on a machine compiles, and takes a while"


def _check(bundle: Path) -> str:
    import asyncio

    from server.apart import check_apart

    return asyncio.run(check_apart(bundle))


def _tell_that_it_waits(root: Path) -> None:
    from server.apart import TIMEOUT_S

    click.echo(
        f"waiting for another activate or rollback of {root}, whose checks take up to "
        f"{TIMEOUT_S:.0f} s each",
        err=True,
    )


@click.command("activate", epilog=ACTIVATE_EXAMPLES)
@ROOT
@click.argument("bundle", type=click.Path(path_type=Path, file_okay=False, exists=True))
def activate(root: Path, bundle: Path) -> None:
    """Copy BUNDLE into ROOT, a folder of releases, and make it the active one.

    The copy is checked as a server does before it serves, in a process of its own with limits:
    a model that crashes or hangs is refused like any other. ROOT is made when missing.
    """
    from server import releases

    click.echo(CHECKING, err=True)
    pointer = releases.activate(root, bundle, _check, waits=lambda: _tell_that_it_waits(root))
    before = f", before it {pointer.earlier[0]}" if pointer.earlier else ""
    click.echo(f"{pointer.active} is active{before}")


@click.command("rollback", epilog=ROLLBACK_EXAMPLES)
@ROOT
def rollback(root: Path) -> None:
    """Make the release before the active one active again.

    It is checked once more; one that can no longer be served is passed over, for the one
    before it.
    """
    from server import releases

    click.echo(CHECKING, err=True)
    pointer, passed = releases.roll_back(root, _check, waits=lambda: _tell_that_it_waits(root))
    for bundle_id in passed:
        click.echo(f"{bundle_id} can no longer be served and was passed over", err=True)
    click.echo(f"{pointer.active} is active again")


@click.command("releases")
@ROOT
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def releases(root: Path, as_json: bool) -> None:
    """Tell which release of ROOT is active, and which it can go back to.

    Those marked left are neither: a rollback went back over them. The next activation removes
    them, but for those that a server serves.
    """
    from server.releases import left_over, path_of, read_pointer

    pointer = read_pointer(root)
    left = left_over(root, pointer)
    if as_json:
        click.echo(json.dumps({"active": pointer.active, "earlier": pointer.earlier, "left": left}))
        return
    click.echo(f"active   {pointer.active}   {path_of(root, pointer.active)}")
    for bundle_id in pointer.earlier:
        click.echo(f"earlier  {bundle_id}   {path_of(root, bundle_id)}")
    for bundle_id in left:
        click.echo(f"left     {bundle_id}   {path_of(root, bundle_id)}")
