"""The Open Inference Protocol, version 2, as Triton speaks it. See `server.service.oip.servicer`."""

from server.service.oip.models import follower
from server.service.oip.servicer import INFERENCE, InferenceServicer

__all__ = ["INFERENCE", "InferenceServicer", "follower"]
