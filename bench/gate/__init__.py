"""The gate: results and budgets in, pass / fail / not enough evidence out."""

from bench.gate.budgets import Budget, Budgets, parse_budgets
from bench.gate.results import Result, read_results
from bench.gate.verdict import Line, Status, Verdict, evaluate

__all__ = [
    "Budget",
    "Budgets",
    "Line",
    "Result",
    "Status",
    "Verdict",
    "evaluate",
    "parse_budgets",
    "read_results",
]
