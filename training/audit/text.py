"""How numbers, intervals and tables look in the audit's page and summary.

Owns the one format of numbers: four places, and what is too small for them says so.

>>> number(0.25), number(1844), number(None)
('0.2500', '1,844', '-')
>>> number(1.7e-6), number(-2e-5), number(2.2e-16)
('<0.0001', '>-0.0001', '0')
>>> span(0.0, 0.2449)
'[0, 0.2449]'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SMALLEST = 5e-5
"""Below this four places would show 0, which would be a lie."""
NOISE = 1e-12
"""Below this it is what rounding left of 0."""


def number(value: Any) -> str:
    """A cell of a table; text stays as it is."""
    if value is None:
        return "-"
    if isinstance(value, float):
        if abs(value) < NOISE:
            return "0"
        if abs(value) < SMALLEST:
            return "<0.0001" if value > 0 else ">-0.0001"
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def span(low: float | None, high: float | None) -> str:
    """An interval."""
    return "-" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table whose columns line up in a terminal too."""
    texts = [[number(value) for value in row] for row in rows]
    widths = [max(len(text[i]) for text in [list(head), *texts]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"

    return [line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, texts)]


def metric_titles(k: int) -> dict[str, str]:
    """The user side's metrics in words, in the order in which they are told."""
    return {
        f"first_basket_ndcg_at_{k}": f"NDCG@{k}, first basket",
        f"first_basket_recall_at_{k}": f"recall@{k}, first basket",
        "first_basket_roc_auc": "ROC-AUC, first basket",
        f"ndcg_at_{k}": f"NDCG@{k}",
        f"recall_at_{k}": f"recall@{k}",
        "roc_auc": "ROC-AUC",
    }
