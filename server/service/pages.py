"""Page tokens: what a caller hands back to have the next page of a list.

A token is signed and expires. It holds the bundle, the policy's digest, the time that
the list is made for and the items that were shown, and is bound to the request (its
user too) by a digest of all other fields. It is opaque but not secret: it tells what
its owner has seen already. Whoever has the key can make tokens; give all replicas the
same one, or a page is refused by those that did not make the one before.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer

from equipoise.v1 import recommendation_pb2 as pb
from server.bundle import Bundle
from server.engine import Page
from server.errors import PageTokenInvalid, PageTokenStale, SettingsRefused

MIN_KEY_BYTES = 16


def read_key(path: Path | None) -> bytes:
    """The key in a file, or a new one for this process.

    Raises:
        SettingsRefused: the file cannot be read, or its key is too short to be one.
    """
    if path is None:
        return secrets.token_bytes(32)
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsRefused(f"page_key_file: cannot read {path}: {error.strerror}") from error
    if len(key) < MIN_KEY_BYTES:
        raise SettingsRefused(
            f"page_key_file: {path} holds {len(key)} bytes, allowed: at least {MIN_KEY_BYTES} "
            "random ones; make it with: openssl rand -hex 32"
        )
    return key


@dataclass(frozen=True)
class PageTokens:
    """Makes and reads the tokens of one bundle; they live `max_age_s` seconds."""

    bundle: Bundle
    key: bytes
    max_age_s: int

    def token(self, request: pb.RecommendRequest, page: Page) -> str:
        """The token for what follows `page`, the places shown so far."""
        made: str = self._serializer.dumps(
            {
                "bundle": self.bundle.manifest.bundle_id,
                "policy": self._policy_digest(request),
                "request": _digest(request),
                "as_of_ms": page.as_of_ms,
                "shown": page.shown,
            }
        )
        return made

    def page(self, request: pb.RecommendRequest) -> Page:
        """What the request's token says was shown.

        Raises:
            PageTokenInvalid: it was not made here, or belongs to another user or request.
            PageTokenStale: it is too old, or of a bundle or policy that is no longer served.
        """
        try:
            content: Any = self._serializer.loads(request.page_token, max_age=self.max_age_s)
        except SignatureExpired as error:
            raise PageTokenStale(f"is older than {self.max_age_s} s") from error
        except BadData as error:
            raise PageTokenInvalid(
                "was not made by this server (or by one with the same page_key_file)"
            ) from error
        if content["bundle"] != self.bundle.manifest.bundle_id:
            raise PageTokenStale(
                f"belongs to bundle {content['bundle']}, now {self.bundle.manifest.bundle_id} serves"
            )
        if content["request"] != _digest(request):
            raise PageTokenInvalid(
                "belongs to another request: all fields but page_token, request_id, surface, "
                "experiment and with_candidates must be as in the first page's"
            )
        if content["policy"] != self._policy_digest(request):
            raise PageTokenStale("belongs to a policy that has changed")
        return Page(shown=tuple(content["shown"]), as_of_ms=content["as_of_ms"])

    @cached_property
    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(
            self.key,
            salt="equipoise.v1.page",
            serializer=json,
            signer_kwargs={"digest_method": hashlib.sha256},
        )

    def _policy_digest(self, request: pb.RecommendRequest) -> str:
        name = request.policy or self.bundle.manifest.default_policy
        compiled = self.bundle.policies.get(name)
        return "" if compiled is None else compiled.policy.digest


def _digest(request: pb.RecommendRequest) -> str:
    bound = pb.RecommendRequest()
    bound.CopyFrom(request)
    # What may differ from page to page.
    bound.page_token = bound.request_id = bound.surface = bound.experiment = ""
    bound.with_candidates = False
    return hashlib.sha256(bound.SerializeToString(deterministic=True)).hexdigest()
