"""Fair re-ranking: policies, kernels, receipts and measures. Pure: arrays in, arrays out."""

from server.fairness.compile import CompiledPolicy, compile_policy, shortage
from server.fairness.policy import Policy, parse_policy
from server.fairness.rerank import rerank, warm_up
from server.fairness.types import FairList, GroupExposure, PrefixViolation, Receipt, Status

__all__ = [
    "CompiledPolicy",
    "FairList",
    "GroupExposure",
    "Policy",
    "PrefixViolation",
    "Receipt",
    "Status",
    "compile_policy",
    "parse_policy",
    "rerank",
    "shortage",
    "warm_up",
]
