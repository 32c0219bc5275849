"""Numbers and names of the domain equal those of the wire, so that encoding is a cast."""

from __future__ import annotations

from enum import IntEnum
from importlib.resources import files

import pytest
from google.protobuf import descriptor_pb2

from equipoise.v1 import errors_pb2, recommendation_pb2, serving_pb2
from server.engine import Degraded, Source
from server.errors import Reason
from server.events import EventKind
from server.fairness.types import ReasonCode, Skip, Status
from server.service.status import CODES


@pytest.mark.parametrize(
    ("domain", "wire", "prefix"),
    [
        (Degraded, recommendation_pb2.DegradedReason, "DEGRADED_REASON_"),
        (Source, recommendation_pb2.CandidateSource, "CANDIDATE_SOURCE_"),
        (ReasonCode, recommendation_pb2.ReasonCode, "REASON_CODE_"),
        (Status, recommendation_pb2.ReceiptStatus, "RECEIPT_STATUS_"),
        (Skip, recommendation_pb2.SkipReason, "SKIP_REASON_"),
        (EventKind, recommendation_pb2.EventKind, "EVENT_KIND_"),
    ],
)
def test_domain_enums_carry_the_wires_names_and_numbers(
    domain: type[IntEnum], wire: object, prefix: str
) -> None:
    on_the_wire = {name.removeprefix(prefix): number for name, number in wire.items()}
    here = {member.name: int(member) for member in domain}
    assert {name: n for name, n in here.items() if n} == {
        name: n for name, n in on_the_wire.items() if n
    }


def test_every_error_reason_is_documented_on_the_wire_and_has_a_status() -> None:
    on_the_wire = {
        name.removeprefix("ERROR_REASON_") for name, n in errors_pb2.ErrorReason.items() if n
    }
    assert {reason.value for reason in Reason} == on_the_wire
    assert set(CODES) == set(Reason)


@pytest.mark.parametrize("module", [errors_pb2, recommendation_pb2, serving_pb2])
def test_the_descriptors_for_gateways_are_those_of_the_stubs(module: object) -> None:
    raw = (files("equipoise.v1") / "descriptors.binpb").read_bytes()
    for_gateways = {
        file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file
    }
    stubs = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(stubs)  # type: ignore[attr-defined]
    shipped = for_gateways[stubs.name]
    for message in shipped.message_type:
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            for field in nested.field:
                field.ClearField("json_name")
    assert shipped == stubs
    assert "google/rpc/error_details.proto" in for_gateways, "or errors come without details"
