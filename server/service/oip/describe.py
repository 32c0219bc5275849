"""How models are described to callers: ModelMetadata and ModelConfig."""

from __future__ import annotations

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.oip import model_config_pb2 as config_pb
from server.config import ServerSettings
from server.service.oip.models import VERSION, Description
from server.service.oip.tensors import TensorSpec

# 1 goes first; 2 is for work that nobody waits for at a screen.
PRIORITIES = 2


def metadata(model: Description) -> pb.ModelMetadataResponse:
    """The inputs and outputs, with the batch axis."""
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[VERSION],
        platform=model.platform,
        inputs=map(_tensor, model.inputs),
        outputs=map(_tensor, model.outputs),
    )


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype.name, shape=spec.shape
    )


def config(model: Description, bundle_id: str, settings: ServerSettings) -> config_pb.ModelConfig:
    """How the model is run; dims are without the batch axis."""
    first = 1 if model.max_batch else 0
    return config_pb.ModelConfig(
        name=model.name,
        platform=model.platform,
        backend=model.backend,
        max_batch_size=model.max_batch,
        input=[
            config_pb.ModelInput(
                name=spec.name,
                data_type=spec.datatype.config,
                dims=spec.shape[first:],
                optional=spec.optional,
            )
            for spec in model.inputs
        ],
        output=[
            config_pb.ModelOutput(
                name=spec.name, data_type=spec.datatype.config, dims=spec.shape[first:]
            )
            for spec in model.outputs
        ],
        instance_group=[
            config_pb.ModelInstanceGroup(
                name=f"{model.name}_0", count=1, kind=config_pb.ModelInstanceGroup.KIND_CPU
            )
        ],
        dynamic_batching=config_pb.ModelDynamicBatching(
            max_queue_delay_microseconds=0,
            priority_levels=PRIORITIES,
            default_priority_level=1,
            default_queue_policy=config_pb.ModelQueuePolicy(
                timeout_action=config_pb.ModelQueuePolicy.REJECT,
                allow_timeout_override=True,
                max_queue_size=settings.max_queue,
            ),
        ),
        parameters={"bundle_id": config_pb.ModelParameter(string_value=bundle_id)},
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
    )
