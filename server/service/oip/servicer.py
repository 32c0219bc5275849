"""The Open Inference Protocol's service, as Triton has it: methods, and errors through one door.

Its answers speak of the models; what they do is theirs. Calls are counted as
those of the other services are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, NoReturn

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.oip import grpc_service_pb2_grpc
from server import __version__
from server.config import ServerSettings
from server.errors import Unsupported
from server.service.health import HealthServicer
from server.service.inflight import Arrived, BytesInFlight
from server.service.lists import Call
from server.service.metrics import ServerMetrics
from server.service.oip import describe
from server.service.oip.infer import MODELS, Inference
from server.service.oip.models import VERSION, Served
from server.service.oip.stream import METHOD as STREAM
from server.service.oip.stream import InferFlow
from server.service.servicer import CallDoor, Context, begun

if TYPE_CHECKING:
    from server.service.traces import Traces

INFERENCE = "inference.GRPCInferenceService"
EXTENSIONS = ("model_configuration", "parameters", "schedule_policy", "statistics")
WHY_NOT = "models come in release bundles: change to another with equipoise bundle activate"


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Models and what is to be said of them.

    served: what serves, asked for each request anew. health: says whether the server is ready.
    draining: set when it stops.
    """

    def __init__(
        self,
        served: Callable[[], Served],
        settings: ServerSettings,
        metrics: ServerMetrics,
        health_of: HealthServicer,
        draining: asyncio.Event,
        flight: BytesInFlight,
        traces: Traces | None = None,
    ) -> None:
        self._inference = Inference(served, settings)
        self._settings = settings
        self._metrics = metrics
        self._health = health_of
        self._draining = draining
        self._flight = flight
        self._door = CallDoor(INFERENCE, metrics, traces)

    def swapped(self) -> None:
        """Another release serves: hold nothing of the one before, also where nobody asks."""
        _ = self._inference.serving

    def _ready(self) -> bool:
        return self._health.serving(INFERENCE)

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        async def work(call: Call) -> pb.ServerLiveResponse:
            return pb.ServerLiveResponse(live=True)

        return await self._door.answer("ServerLive", context, begun(context), work)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        async def work(call: Call) -> pb.ServerReadyResponse:
            return pb.ServerReadyResponse(ready=self._ready())

        return await self._door.answer("ServerReady", context, begun(context), work)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        async def work(call: Call) -> pb.ModelReadyResponse:
            known = request.name in MODELS and request.version in ("", VERSION)
            return pb.ModelReadyResponse(ready=known and self._ready())

        return await self._door.answer("ModelReady", context, begun(context), work)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        async def work(call: Call) -> pb.ServerMetadataResponse:
            return pb.ServerMetadataResponse(
                name="equipoise", version=__version__, extensions=EXTENSIONS
            )

        return await self._door.answer("ServerMetadata", context, begun(context), work)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        async def work(call: Call) -> pb.ModelMetadataResponse:
            self._inference.check(request.name, request.version)
            return describe.metadata(self._inference.serving.models[request.name].description)

        return await self._door.answer("ModelMetadata", context, begun(context), work)

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        async def work(call: Call) -> pb.ModelConfigResponse:
            self._inference.check(request.name, request.version)
            serving = self._inference.serving
            return pb.ModelConfigResponse(
                config=describe.config(
                    serving.models[request.name].description,
                    serving.bundle.manifest.bundle_id,
                    self._settings,
                )
            )

        return await self._door.answer("ModelConfig", context, begun(context), work)

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        async def work(call: Call) -> pb.ModelStatisticsResponse:
            names = (request.name,) if request.name else MODELS
            for name in names:
                self._inference.check(name, request.version)
            return pb.ModelStatisticsResponse(
                model_stats=[self._inference.figures[name].message() for name in names]
            )

        return await self._door.answer("ModelStatistics", context, begun(context), work)

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        async def work(call: Call) -> pb.ModelInferResponse:
            return await self._inference.infer(request, call)

        return await self._door.answer("ModelInfer", context, begun(context, request.id), work)

    async def ModelStreamInfer(  # type: ignore[override]  # the stub knows generators only
        self, requests: AsyncIterator[Arrived], context: Context
    ) -> None:
        async def work(call: Call) -> None:
            flow = InferFlow(
                self._inference,
                call,
                context.write,
                self._metrics,
                in_flight=self._settings.max_stream_in_flight,
                draining=self._draining,
                flight=self._flight,
            )
            await flow.run(requests)

        await self._door.answer(STREAM, context, begun(context), work)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        async def work(call: Call) -> pb.RepositoryIndexResponse:
            ready = self._ready()
            index = pb.RepositoryIndexResponse.ModelIndex(
                version=VERSION,
                state="READY" if ready else "UNAVAILABLE",
                reason="" if ready else "the server drains",
            )
            response = pb.RepositoryIndexResponse()
            for name in MODELS if ready or not request.ready else ():
                response.models.add(
                    name=name, version=index.version, state=index.state, reason=index.reason
                )
            return response

        return await self._door.answer("RepositoryIndex", context, begun(context), work)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        await self._unsupported("RepositoryModelLoad", context)

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        await self._unsupported("RepositoryModelUnload", context)

    async def _unsupported(self, method: str, context: Context) -> NoReturn:
        async def work(call: Call) -> NoReturn:
            raise Unsupported(f"{method} is not offered: {WHY_NOT}")

        await self._door.answer(method, context, begun(context), work)
        raise AssertionError("it is refused always")
