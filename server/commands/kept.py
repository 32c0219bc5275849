"""The folder of `recommend --evidence`: the first request and the response of every page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message


def responses(folder: Path) -> list[Path]:
    """Where the pages that are there lie, in order."""
    numbers = (path.stem.removeprefix("response-") for path in folder.glob("response-*.json"))
    more = sorted(int(number) for number in numbers if number.isdecimal())
    first = folder / "response.json"
    return [first] * first.exists() + [folder / f"response-{number}.json" for number in more]


def place_of(folder: Path, page_token: str) -> int:
    """The number of the page that the token brings, from 1: the one after the page that told it.

    Raises:
        click.UsageError: no page in the folder told it.
    """
    if not page_token:
        return 1
    for number, path in enumerate(responses(folder), start=1):
        try:
            told = json.loads(path.read_text(encoding="utf-8")).get("next_page_token")
        except (OSError, ValueError, AttributeError):
            continue  # no page
        if told == page_token:
            return number + 1
    raise click.UsageError(
        f"--evidence: no page in {str(folder)!r} told this --page-token; ask for every page of a "
        "list with the same folder, from the first on"
    )


def keep(folder: Path, number: int, request: Message, response: Message) -> None:
    """Write a page; those after it in the folder are of a list from before, and go."""
    from google.protobuf.json_format import MessageToJson

    folder.mkdir(parents=True, exist_ok=True)
    for old in responses(folder)[number - 1 :]:
        old.unlink()
    files = {"response" if number == 1 else f"response-{number}": response}
    if number == 1:
        files["request"] = request
    for name, message in files.items():
        text = MessageToJson(message, preserving_proto_field_name=True)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
