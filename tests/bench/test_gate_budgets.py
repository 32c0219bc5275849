"""Budget files: what is refused, and how the refusal helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gate import parse_budgets
from bench.refused import InputRefused
from strategies.results import budget

HEAD = 'schema_version = 1\nname = "t"\n'
LINE = budget("load.error_ratio", at_most=0.1)
DEMO = Path(__file__).parents[2] / "bench" / "budgets" / "demo.toml"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (HEAD, "budget: is missing"),
        (HEAD + "budget = []\n", "budget: got"),
        ("", "is missing"),
        ("schema_version = 2\nname = 't'\n" + LINE, "schema_version: got 2"),
        (HEAD + LINE.replace("at_most", "atmost"), "did you mean 'at_most'"),
        (HEAD + LINE.replace("at_most = 0.1\n", ""), "needs at_least or at_most"),
        (HEAD + LINE.replace("0.1", "nan"), "budget.0.at_most: got nan"),
        (HEAD + LINE.replace("0.1", "inf"), "budget.0.at_most: got inf"),
        (HEAD + LINE.replace("0.1", "true"), "budget.0.at_most: got True"),
        (HEAD + LINE.replace('"made for a test"', '"  "'), "budget.0.reason"),
        (HEAD + LINE.replace('reason = "made for a test"\n', ""), "budget.0.reason: is missing"),
        (HEAD + LINE.replace("min_n = 1", "min_n = 0"), "budget.0.min_n: got 0"),
        (HEAD + LINE.replace("min_n = 1\n", ""), "budget.0.min_n: is missing"),
        (HEAD + LINE.replace('"value"', '"mood"'), "budget.0.decide_on: got 'mood'"),
        (HEAD + LINE.replace("load.error_ratio", "speed"), "budget.0.metric: got 'speed'"),
        (HEAD + LINE.replace("at_most", "at_least = 0.2\nat_most"), "at_least 0.2 is above"),
        (HEAD + LINE + "expires = 'soon'", "budget.0.expires: got 'soon'"),
        ("schema_version = ", "not TOML"),
    ],
)  # fmt: skip
def test_a_malformed_budget_is_refused_with_the_place(document: str, told: str) -> None:
    with pytest.raises(InputRefused) as refused:
        parse_budgets(document, "b.toml")
    assert told in str(refused.value)
    assert str(refused.value).startswith("b.toml: ")


def test_the_demos_budgets_are_well_formed_and_each_tells_its_reason() -> None:
    budgets = parse_budgets(DEMO.read_text(encoding="utf-8"), str(DEMO))
    kinds = {line.metric.partition(".")[0] for line in budgets.budget}
    assert kinds == {"quality", "load", "invariants"}
    assert all(len(line.reason) > 40 for line in budgets.budget)
