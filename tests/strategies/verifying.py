"""`equipoise verify` as tests call it: messages in, its exit code and claims out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from bench.verify.command import command

Claims = dict[str, dict[str, str]]
Verifier = Callable[..., tuple[int, Claims]]


def verifier_of(folder: Path, bundle_path: Path) -> Verifier:
    """(exit code, the claims by name) of a request and its responses under a policy."""

    def run(
        request: Message,
        responses: Sequence[Message],
        policy: str,
        *more: Any,
        bundle: bool = True,
    ) -> tuple[int, Claims]:
        flags = ["--policy", str(bundle_path / "policies" / f"{policy}.toml"), "--json"]
        flags += ["--bundle", str(bundle_path)] if bundle else []
        flags += map(str, more)
        for flag, messages in (("--request", [request]), ("--response", responses)):
            for number, message in enumerate(messages):
                path = folder / f"{flag.strip('-')}{number}.json"
                path.write_text(
                    json.dumps(MessageToDict(message, preserving_proto_field_name=True))
                )
                flags += [flag, str(path)]
        result = CliRunner().invoke(command, flags)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        claims = json.loads(result.stdout)["claims"]
        return result.exit_code, {claim["claim"]: claim for claim in claims}

    return run
