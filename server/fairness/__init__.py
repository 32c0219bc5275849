"""Fair re-ranking: policies, kernels, receipts and measures. Pure: arrays in, arrays out."""

from server.fairness.compile import CompiledPolicy, compile_policy
from server.fairness.policy import Policy, parse_policy
from server.fairness.rerank import rerank
from server.fairness.types import FairList, Receipt, Status

__all__ = [
    "CompiledPolicy",
    "FairList",
    "Policy",
    "Receipt",
    "Status",
    "compile_policy",
    "parse_policy",
    "rerank",
]
