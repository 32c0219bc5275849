"""Which policies a bundle gets: nobody's policy is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.bundle import GroupTable
from server.errors import PolicyRefused, Refused
from strategies.fairness import document
from training.choose_policies import choose_policies

TIERS = GroupTable("provider_tier", ("large", "medium", "small", "unknown"), np.zeros(3, np.int32))
BRANDS = GroupTable("brand", ("National", "Private"), np.zeros(3, np.int32))


def put(folder: Path, name: str, table: str, body: str) -> None:
    text = document("floors", f"[floors]\n{body}").replace('"t"', f'"{table}"')
    (folder / f"{name}.toml").write_text(text.replace('name = "p"', f'name = "{name}"'))


def test_an_own_policy_that_fits_is_the_default_and_the_plain_order_is_always_there(
    tmp_path: Path,
) -> None:
    put(tmp_path, "mine", "provider_tier", 'small = "1/5"\n')
    chosen = choose_policies(tmp_path, None, (TIERS,))
    assert set(chosen.documents) == {"mine", "none"}
    assert chosen.default == "mine"
    assert not chosen.left_out


@pytest.mark.parametrize(
    ("table", "body", "told"),
    [
        ("provider_tier", 'smal = "1/5"\n', "did you mean 'small'"),
        ("colour", 'red = "1/5"\n', "got 'colour'; the data has brand, provider_tier"),
    ],
)
def test_an_own_policy_that_does_not_fit_is_refused(
    tmp_path: Path, table: str, body: str, told: str
) -> None:
    put(tmp_path, "fits", "brand", 'Private = "1/5"\n')
    put(tmp_path, "unfit", table, body)
    with pytest.raises(PolicyRefused, match=told):
        choose_policies(tmp_path, None, (BRANDS, TIERS))


def test_of_several_own_policies_the_default_must_be_said(tmp_path: Path) -> None:
    put(tmp_path, "one", "brand", 'Private = "1/5"\n')
    put(tmp_path, "two", "brand", 'Private = "1/4"\n')
    with pytest.raises(Refused, match=r"--default-policy: one, two"):
        choose_policies(tmp_path, None, (BRANDS,))
    assert choose_policies(tmp_path, "two", (BRANDS,)).default == "two"
    with pytest.raises(Refused, match=r"'three': there are none, one, two"):
        choose_policies(tmp_path, "three", (BRANDS,))


def test_two_files_of_one_name_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no policy"):
        choose_policies(tmp_path, None, (BRANDS,))
    put(tmp_path, "one", "brand", 'Private = "1/5"\n')
    (tmp_path / "copy.toml").write_text((tmp_path / "one.toml").read_text())
    with pytest.raises(Refused, match="holds policy 'one' too"):
        choose_policies(tmp_path, None, (BRANDS,))


def test_of_the_policies_that_come_along_those_that_fit_are_taken_and_the_rest_is_told() -> None:
    chosen = choose_policies(None, None, (BRANDS,))
    assert set(chosen.documents) == {"none", "private-label"}
    assert chosen.default == "none"
    assert set(chosen.left_out) == {
        "category-cap", "own-taste", "provider-tiers", "shelf-over-time",
    }  # fmt: skip
    assert "the data has brand" in chosen.left_out["provider-tiers"]
    every = choose_policies(None, None, (BRANDS, TIERS))
    assert every.default == "provider-tiers"


FIVE = GroupTable("category", tuple("ABCDE"), np.arange(40, dtype=np.int32) % 5)
CAP = """name = "mine"
version = "1"
kind = "cap"
group_table = "category"
reason = "No category floods the list."
[cap]
at_most = 3
within_first = 20
"""


def test_a_policy_that_comes_along_and_can_never_be_met_is_left_out() -> None:
    """Three of each of five categories fill 15 of the first 20 places."""
    chosen = choose_policies(None, None, (FIVE,))
    assert "category-cap" not in chosen.documents
    why = chosen.left_out["category-cap"]
    assert "no list of 20 of this catalogue can keep it" in why
    assert "may fill only 15 of them" in why
    assert not chosen.never_met
    seven = GroupTable("category", tuple("ABCDEFG"), np.arange(40, dtype=np.int32) % 7)
    assert "category-cap" in choose_policies(None, None, (seven,)).documents
    with pytest.raises(Refused, match="'category-cap' is left out: no list of 20"):
        choose_policies(None, "category-cap", (FIVE,))


def test_an_own_policy_that_can_never_be_met_stays_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(CAP)
    chosen = choose_policies(tmp_path, None, (FIVE,))
    assert chosen.default == "mine"
    assert not chosen.left_out
    assert chosen.never_met["mine"].startswith("cannot be met on this catalogue at 20 places: ")
    assert "may fill only 15 of them" in chosen.never_met["mine"]


def test_data_without_groups_has_the_plain_order_alone() -> None:
    assert set(choose_policies(None, None, ()).documents) == {"none"}
