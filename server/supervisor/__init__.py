"""One process that keeps others serving: it starts, replaces and stops them, and counts for them.

Owns processes. Must not know what they do: neither the wire nor bundles, and nothing of numpy or
onnxruntime is loaded here.
"""

from server.supervisor.counts import SwapCounts, WorkerCounts
from server.supervisor.supervise import supervise

__all__ = ["SwapCounts", "WorkerCounts", "supervise"]
