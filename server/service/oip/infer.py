"""One ModelInferRequest, from its message to its response, whatever call it came in.

Owns the choice of the model, the parameters that are heeded, and what is
counted. Decoding is `tensors`' business, the work the models'.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from equipoise.oip import grpc_service_pb2 as pb
from server.bundle import Bundle
from server.config import ServerSettings
from server.errors import InvalidField, ItemNumbersStale, Reason, UnknownName
from server.service.decode import check_request_id
from server.service.lists import Call
from server.service.oip import ranker, recommend
from server.service.oip.describe import PRIORITIES
from server.service.oip.models import VERSION, Model, Served
from server.service.oip.statistics import ModelFigures
from server.service.oip.tensors import add_output, decoded, parameters_of, wanted_outputs

MODELS = (ranker.NAME, recommend.NAME)
TIMEOUT, PRIORITY, BUNDLE_ID = "timeout", "priority", "bundle_id"


@dataclass(frozen=True)
class Serving:
    """A bundle and its models by name."""

    bundle: Bundle
    models: dict[str, Model]


class Inference:
    """Runs the models of what serves.

    served: tells what that is, each time anew.
    """

    def __init__(self, served: Callable[[], Served], settings: ServerSettings) -> None:
        self._served = served
        self._settings = settings
        self._of: Served | None = None
        self._serving: Serving | None = None
        self.figures = {name: ModelFigures(name) for name in MODELS}

    @property
    def serving(self) -> Serving:
        """What serves now."""
        served = self._served()
        if self._serving is None or self._of is not served:
            self._of = served
            self._serving = Serving(
                served.bundle,
                {
                    ranker.NAME: ranker.Ranker(served, self._settings),
                    recommend.NAME: recommend.Recommender(served, self._settings),
                },
            )
        return self._serving

    @staticmethod
    def check(name: str, version: str) -> None:
        """Raises:
        UnknownName: there is no such model or version.
        """
        if name not in MODELS:
            raise UnknownName(Reason.UNKNOWN_MODEL, "model", name, MODELS)
        if version not in ("", VERSION):
            raise UnknownName(Reason.UNKNOWN_MODEL, f"version of {name}", version, (VERSION,))

    async def infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """The response, counted.

        Raises:
            UnknownName: no such model or version.
            InvalidField: the request is outside the contract.
            ItemNumbersStale: it is for a bundle that does not serve.
            QueueFull, DeadlineExpired, NotServing, ...: as in a Recommend.
        """
        self.check(request.model_name, request.model_version)
        figures = self.figures[request.model_name]
        answered = False
        try:
            response = await self._infer(request, _heeding(request, call), figures)
            answered = True
            return response
        finally:
            if not answered:
                figures.failed(call.spent_ns())

    async def _infer(
        self, request: pb.ModelInferRequest, call: Call, figures: ModelFigures
    ) -> pb.ModelInferResponse:
        check_request_id("id", request.id)
        serving = self.serving
        # First: what else is wrong with it may be no mistake but meant for the other.
        _check_bundle(request, serving.bundle.manifest.bundle_id)
        model = serving.models[request.model_name]
        outputs = wanted_outputs(request, model.description.outputs)
        inputs = decoded(request, model.description.inputs)
        decode_ns = call.spent_ns()
        made = await model.run(inputs, call)
        started_ns = time.monotonic_ns()
        response = pb.ModelInferResponse(
            model_name=request.model_name,
            model_version=VERSION,
            id=request.id,
            parameters=parameters_of(
                {BUNDLE_ID: serving.bundle.manifest.bundle_id, **made.parameters}
            ),
        )
        for spec in outputs:
            add_output(
                response, spec, made.outputs[spec.name], raw=len(request.raw_input_contents) > 0
            )
        figures.succeeded(
            made,
            decode_ns=decode_ns,
            encode_ns=made.encode_ns + time.monotonic_ns() - started_ns,
            spent_ns=call.spent_ns(),
        )
        return response


def _heeding(request: pb.ModelInferRequest, call: Call) -> Call:
    """The call with the request's own deadline and priority.

    Raises:
        InvalidField: they are no numbers, or out of range.
    """
    timeout_us = _number(request, TIMEOUT, 0, 86_400_000_000)
    if timeout_us:
        own_ns = call.started_ns + timeout_us * 1_000
        call = replace(call, deadline_ns=min(own_ns, call.deadline_ns or own_ns))
    if _number(request, PRIORITY, 0, PRIORITIES) == PRIORITIES:
        call = replace(call, background=True)
    return call


def _check_bundle(request: pb.ModelInferRequest, bundle_id: str) -> None:
    """Raises:
    InvalidField: the parameter is no text.
    ItemNumbersStale: it names another bundle than this.
    """
    if BUNDLE_ID not in request.parameters:
        return
    field, value = f"parameters[{BUNDLE_ID!r}]", request.parameters[BUNDLE_ID]
    kind = value.WhichOneof("parameter_choice")
    if kind != "string_param":
        raise InvalidField.of(field, f"a {kind}", "the id of a bundle, a string")
    if value.string_param != bundle_id:
        raise ItemNumbersStale(
            value.string_param, bundle_id, field, "read ModelConfig and ModelMetadata again"
        )


def _number(request: pb.ModelInferRequest, name: str, low: int, high: int) -> int:
    """A parameter's value; 0 without it."""
    if name not in request.parameters:
        return 0
    value = request.parameters[name]
    kind = value.WhichOneof("parameter_choice")
    number = getattr(value, kind) if kind in ("int64_param", "uint64_param") else None
    if number is None or not low <= number <= high:
        seen = number if number is not None else f"a {kind}"
        raise InvalidField.of(f"parameters[{name!r}]", seen, f"a whole number, {low} to {high}")
    return int(number)
