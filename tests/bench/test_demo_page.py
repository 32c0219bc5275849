"""The demo's page: a group that evaluation withholds, and a gate line without a number."""

from __future__ import annotations

from pathlib import Path

import jinja2

import bench.demo.page
from bench.demo.page import TEMPLATE
from bench.demo.tell import _value
from bench.gate.lines import plain

GOOD = {"value": 0.25, "low": 0.24, "high": 0.26, "n_users": 352}
WITHHELD = {"value": None, "low": None, "high": None, "n_users": 9, "withheld": "9 users"}


def test_withheld_groups_have_a_row_without_numbers() -> None:
    page = (Path(bench.demo.page.__file__).parent / TEMPLATE).read_text(encoding="utf-8")
    part = page[page.index("<h2>Are all households") : page.index("<h2>Load")]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    groups = {
        label: {"first_basket_recall_at_20": told}
        for label, told in (("35-74K", GOOD), ("75K+", WITHHELD))
    }
    line = {"value": None, "low": None, "high": None, "bound": ">= 0.65"}
    told = environment.from_string(part).render(quality={"groups": {"income": groups}}, worst=line)
    assert "0.240 to 0.260" in told
    assert "withheld: too few households" in told
    assert "Worst over best" not in told, "without a number there is nothing to say of it"


def test_a_line_whose_interval_has_no_end_is_told() -> None:
    line = {"value": 17.4, "low": 12.0, "high": plain(float("inf")), "why": "", "bound": "<= 250"}
    assert _value(line) == "17.4 [12, inf]"
    assert _value(line | {"low": None}) == "17.4"
    assert _value(line | {"value": None, "why": "void"}) == "void"
    page = (Path(bench.demo.page.__file__).parent / TEMPLATE).read_text(encoding="utf-8")
    part = page[page.index("{% for line in verdict.lines") : page.index('<p class="soft">Data')]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    rest = {"metric": "m", "reason": "r", "status": "pass"}
    told = environment.from_string(part).render(verdict={"lines": [line | rest]})
    assert "12 to inf" in told
