"""Triton's own client against a real server, and its contract against ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from equipoise.oip import grpc_service_pb2, model_config_pb2
from server.bundle import load_bundle, ports_of
from server.model import OnnxScorer
from strategies.foreign import ROOT, foreign_python, run_foreign
from strategies.live import LiveServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theirs() -> Any:
    return run_foreign("tritonclient", "contract.py")


@pytest.fixture(scope="module")
def understood(live: LiveServer) -> Any:
    return run_foreign("tritonclient", "calls.py", live.target)


def files() -> list[descriptor_pb2.FileDescriptorProto]:
    made = []
    for module in (grpc_service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        made.append(file)
    return made


def check_message(message: descriptor_pb2.DescriptorProto, prefix: str, theirs: Any) -> int:
    name = f"{prefix}.{message.name}"
    for field in message.field:
        told = [field.number, field.type, field.label, field.type_name]
        assert theirs["messages"][name][field.name] == told, (name, field.name)
    for enum in message.enum_type:
        check_enum(enum, name, theirs)
    nested = (check_message(one, name, theirs) for one in message.nested_type)
    return len(message.field) + sum(nested)


def check_enum(enum: descriptor_pb2.EnumDescriptorProto, prefix: str, theirs: Any) -> None:
    for value in enum.value:
        assert theirs["enums"][f"{prefix}.{enum.name}"][value.name] == value.number, enum.name


def test_every_field_and_method_of_ours_is_tritons(theirs: Any) -> None:
    fields = methods = 0
    for file in files():
        for message in file.message_type:
            fields += check_message(message, ".inference", theirs)
        for enum in file.enum_type:
            check_enum(enum, ".inference", theirs)
        for service in file.service:
            for method in service.method:
                methods += 1
                told = [method.input_type, method.output_type,
                        method.client_streaming, method.server_streaming]  # fmt: skip
                assert theirs["methods"][f"inference.{service.name}/{method.name}"] == told
    assert fields > 100
    assert methods == 12


def test_all_that_clients_send_is_known_here(theirs: Any) -> None:
    """What we left out of their messages would be dropped unread."""
    known = {
        (f".inference.{message.name}", field.name)
        for file in files()
        for message in file.message_type
        for field in message.field
    }
    for message in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents",
                    "InferParameter", "ModelMetadataResponse", "InferStatistics"):  # fmt: skip
        for field in theirs["messages"][f".inference.{message}"]:
            assert (f".inference.{message}", field) in known


def test_their_client_finds_the_server_and_its_models(understood: Any) -> None:
    assert understood["live"] is understood["ready"] is True
    assert understood["model_ready"] == [True, True, False]
    assert understood["server"]["name"] == "equipoise"
    assert understood["metadata"]["inputs"][0]["name"] == "count"
    assert understood["config"]["backend"] == "onnxruntime"
    assert "dynamic_batching" in understood["config"]
    assert [one["name"] for one in understood["index"]["models"]] == ["ranker", "recommend"]


def test_their_client_gets_lists_with_receipts(understood: Any) -> None:
    made = understood["list"]
    assert len(made["items"]) == len(made["scores"]) == 4
    assert set(made["items"]) <= {f"item-{n:03}" for n in range(20)}
    assert made["receipt"]["policy"] == "tiers"
    assert made["id"] == "one"
    assert made["parameters"] == ["bundle_id", "request_id"]
    assert len(understood["in_a_loop"]["items"]) == 4


def test_their_client_gets_the_models_scores(understood: Any, bundle_path: Any) -> None:
    bundle = load_bundle(bundle_path)
    ports = ports_of(bundle.manifest.model)
    own = OnnxScorer(bundle.model, ports).score(
        {ports[0].name: np.array(understood["fed"], np.float32)}
    )
    assert np.allclose(understood["ranked"], own, atol=1e-6)


def test_their_client_streams(understood: Any) -> None:
    first, second, third = understood["stream"]
    assert (len(first["items"]), len(third["items"])) == (3, 2)
    assert (first["id"], third["id"]) == ("s3", "s2")
    assert "got 0, allowed: 1 to 200" in second


def test_their_client_is_told_what_went_wrong(understood: Any) -> None:
    assert understood["unknown"][0] == "StatusCode.NOT_FOUND"
    status, message = understood["two_wide"]
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert message == "inputs[0].shape: got [2], allowed: [1]"
    assert understood["load"][0] == "StatusCode.UNIMPLEMENTED"


def test_the_documents_program_runs(live: LiveServer, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "callers.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    script = tmp_path / "program.py"
    script.write_text(program.replace("127.0.0.1:50051", live.target), encoding="utf-8")
    run = subprocess.run(
        [str(foreign_python("tritonclient")), "-I", str(script)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "RECEIPT_STATUS_MET" in run.stdout


def test_their_client_reads_statistics(understood: Any) -> None:
    ranker, recommend = understood["statistics"]
    assert (ranker["name"], recommend["name"]) == ("ranker", "recommend")
    assert int(ranker["inference_stats"]["success"]["count"]) >= 1
    assert int(recommend["inference_count"]) >= 4
    assert ranker["batch_stats"]
