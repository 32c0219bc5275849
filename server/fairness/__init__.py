"""Fair re-ranking: policies, kernels, receipts and measures. Pure: arrays in, arrays out."""

from server.fairness.compile import (
    CompiledPolicy,
    TableGroups,
    compile_policy,
    compile_tables,
    shortage,
)
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
    "TableGroups",
    "compile_policy",
    "compile_tables",
    "parse_policy",
    "rerank",
    "shortage",
    "warm_up",
]
