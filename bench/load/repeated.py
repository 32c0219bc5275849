"""Is one request, asked again and again, answered faster than different ones? Then answers are kept, and
a load of few different requests says little of a server that serves many people.

As the audit TEST04 of MLPerf's load generator: one sample repeated against as many different ones; here
in turn, so that what else the machine does meets both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc
import numpy as np
from scipy import stats

from bench.load.requests import LoadRequest
from bench.load.validity import ALPHA, Checked
from bench.load.work import Work, body_of
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub

FASTER = 0.7
"""Of the others' median: what a repeated request may come down to for its warm memory."""
TIMEOUT_S = 10.0


def repeated(work: Work, requests: Sequence[LoadRequest], n: int) -> Checked:
    """Ask `n` times the same and `n` others, in turn. Voids nothing: it is a fact of the server."""
    bodies = [body_of(request, work.as_of_ms) for request in requests]
    others = [body for body in bodies if body != bodies[0]]
    if not others:
        return Checked("not kept", None, "all requests are the same", voids=False)
    same_ms: list[float] = []
    other_ms: list[float] = []
    with grpc.insecure_channel(work.target) as channel:
        recommend = RecommendationServiceStub(channel).Recommend
        for number in range(n):
            for body, taken in ((bodies[0], same_ms), (others[number % len(others)], other_ms)):
                began = time.perf_counter()
                try:
                    recommend(body, timeout=TIMEOUT_S)
                except grpc.RpcError as error:
                    told = f"one of the repeated requests failed: {error.code().name}"
                    return Checked("not kept", None, told, voids=False)
                taken.append(1e3 * (time.perf_counter() - began))
    ratio = float(np.median(same_ms) / np.median(other_ms))
    p = float(stats.mannwhitneyu(np.array(same_ms), np.array(other_ms), alternative="less").pvalue)
    kept = p < ALPHA and ratio < FASTER
    told = f"one request repeated takes {ratio:.2f} times what different ones take ({n} each)"
    if kept:
        told += ": answers are kept, so this load flatters the server"
    return Checked("not kept", not kept, told, ratio, FASTER, voids=False)
