"""How the audit looks: page, pictures, the summary in the terminal, lines of help."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from matplotlib.text import Text

from training.audit.command import audit as command
from training.audit.pictures import PAGE_INCHES, SMALL, pictures
from training.audit.report import page, write_audit
from training.audit.summary import summary
from training.audit.text import number, span
from training.commands import evaluate, load_events, train


@pytest.fixture
def document(audit_document: dict[str, Any]) -> dict[str, Any]:
    return audit_document


def test_page_and_pictures_are_written(tmp_path: Path, document: dict[str, Any]) -> None:
    written = {path.name for path in write_audit(document, tmp_path / "a")}
    pictures = {f"{name}.{form}" for name in ("audit-exposure", "audit-tradeoff") for form in ("png", "svg")}  # fmt: skip
    assert written == {"audit.json", "audit.md", *pictures}
    told = page(document)
    for words in ("## tiers", "AWRF", "EE-D", "worst cell", "sex=m (n=3)", "Trade-off"):
        assert words in told
    assert not re.search(r"\b(nan|inf)\b", told)
    assert not re.search(r"\d(\.\d+)?e-\d", told), "one format of numbers"
    assert "wanted over all" not in told, "no policy of this bundle asks two questions of a table"


def test_numbers_have_one_format_and_noise_is_nothing() -> None:
    told = {0.25: "0.2500", 2.2e-16: "0", -1e-15: "0", 0.0: "0", 1.73e-6: "<0.0001",
            -1.73e-6: ">-0.0001", 5e-5: "0.0001", 1234.5: "1,234.5000"}  # fmt: skip
    assert {value: number(value) for value in told} == told
    assert (number(None), number(1844), span(-1e-17, 0.5)) == ("-", "1,844", "[0, 0.5000]")


def test_a_policy_without_regret_has_a_sentence(document: dict[str, Any]) -> None:
    none = {"mean": None, "p99": None, "max": None, "lists": 0, "lists_without_one": 9,
            "against": "exact optimum", "reasons": {"mean": "no list keeps the bounds"}}  # fmt: skip
    changed = copy.deepcopy(document)
    changed["policies"]["tiers"]["regret"] = none
    assert "No regret can be told: no list keeps the bounds." in page(changed)


def test_the_tradeoff_tells_both_aims_of_a_table_and_keeps_a_series_together(
    document: dict[str, Any],
) -> None:
    told = page(document).partition("## Trade-off")[2]
    (head,) = (line for line in told.splitlines() if "over_all" in line and "series" in line)
    assert [cell.strip() for cell in head.split("|")][3:5] == ["groups", "over_all"]
    rows = [line.split("|") for line in told.splitlines() if line.startswith("| ")]
    series = [row[1].strip() for row in rows]
    order = [name for name, _ in itertools.groupby(series) if name != "series"]
    assert len(order) == len(set(order)), "a series is not interleaved with another"
    floors = [row for row in rows if row[1].strip() == "floors"]
    swept = [p for p in document["tradeoff"]["points"] if p["series"] == "floors"]
    assert [row[2].strip() for row in floors] == [point["parameter"] for point in swept]
    assert floors[0][4].strip() == number(swept[0]["fairness"]["over_all"])
    for aim in document["tradeoff"]["aims"]:
        assert f"\n- `{aim}`: " in told


def test_pictures_fit_the_page_and_mark_only_what_somebody_wants(document: dict[str, Any]) -> None:
    drawn = pictures(document)
    for figure in drawn.values():
        assert figure.get_figwidth() == PAGE_INCHES
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(text.get_fontsize() for text in texts) >= SMALL, "8.5 points are 12 pixels"
    panels = {axis.get_title(): axis for axis in drawn["audit-exposure"].axes}
    marks = {
        title: {str(line.get_label()): len(line.get_xdata()) for line in axis.get_lines()}
        for title, axis in panels.items()
    }
    yardstick = "catalogue's share, no target"
    assert marks["tiers: provider_tier"] == {"wanted share": 2, yardstick: 1}
    assert marks["categories: category"] == {yardstick: 6}
    assert set(marks["own-shares: category"]) == {"wanted share"}
    (title,) = (t.get_text() for t in [drawn["audit-tradeoff"]._suptitle])
    assert "the exact optimum of the same bounds" in title.replace("\n", " ")


def test_the_summary_fits_a_screen(document: dict[str, Any]) -> None:
    lines = summary(document).splitlines()
    assert len(lines) <= 38, "and two for the files"
    assert max(map(len, lines)) <= 80
    told = "\n".join(lines)
    for name, policy in document["policies"].items():
        row = next(line for line in lines if line.startswith(f"{name} ")).split()
        assert row[1:3] == [number(policy["lists"]), number(policy["statuses"]["met"])]
        assert row[-2:] == [number(policy["ndcg_kept"]["value"]), number(policy["regret"]["mean"])]
    users = document["policies"]["tiers"]["users"]
    assert "Users under tiers" in told, "the default policy"
    for worst in users["worst"].values():
        assert f"{worst['cell']} (n={worst['n_users']})" in told
    assert "distinguishable from the mean" in told
    few = sum(cell["status"].startswith("too few") for cell in document["cells"])
    assert f"{few} too few" in told


def test_a_summary_of_many_policies_and_of_no_attribute_is_no_longer(
    document: dict[str, Any],
) -> None:
    changed = copy.deepcopy(document)
    one = changed["policies"]["tiers"]
    for worst in one["users"]["worst"].values():
        worst |= {"gap_low": -0.2, "gap_high": -0.1}
    changed["policies"] = {f"p{n}": one | {"policy": f"p{n}"} for n in range(60)}
    assert len(summary(changed).splitlines()) <= 38
    assert ": below the mean" in summary(changed)
    changed["cells"] = []
    for worst in one["users"]["worst"]:
        one["users"]["worst"][worst] = {"cell": None, "reason": "no cell has enough users"}
    assert "the data has no attributes of users" in summary(changed)


@pytest.mark.parametrize("one", [command, train, evaluate, load_events])
def test_every_line_of_help_fits_80_columns(one: Any) -> None:
    told = CliRunner().invoke(one, ["--help"], terminal_width=80).stdout
    assert max(map(len, told.splitlines())) <= 80
