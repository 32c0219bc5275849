"""Policy documents: what they compile to, and what is refused with the key's path."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.errors import PolicyRefused
from server.fairness import TableGroups, compile_policy, compile_tables, parse_policy
from strategies.fairness import LABELS, compiled, document

SHOP = sorted((Path(__file__).parents[3] / "training" / "policies").glob("*.toml"))


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("not toml", "document", ""),
        (document("floors", ""), "floors", "is missing"),
        (document("none", '[floors]\na = "1/2"\n'), "floors", "does not belong"),
        (document("floors", "[floors]\na = 0.29\n"), "floors.a", 'got 0.29'),
        (document("floors", "[floors]\na = 0.29\n"), "floors.a", 'here "29/100"'),
        (document("floors", "[floors]\na = 1\n"), "floors.a", 'such as "1/5"'),
        (document("floors", "").replace("version", "verzion"), "verzion", "mean 'version'"),
        (document("none", "").replace('version = "1"', ""), "version", "is missing"),
        (document("none", "").replace('"serve"', '"ignore"'), "on_infeasible", "'ignore'"),
        (document("floors", '[floors]\na = "3/2"\n'), "floors.a", "'3/2'"),
        (document("floors", '[floors]\na = "1/0"\n'), "floors.a", "'1/0'"),
        (document("floors", '[floors]\na = "2/3"\nb = "1/2"\n'), "floors", "7/6"),
        (document("window", '[window]\na = "2/3"\nb = "1/2"\n'), "window", "7/6"),
        (document("cap", "[cap]\nat_most = 3\nwithin_frist = 2\n"), "cap.within_frist",
         "did you mean 'within_first'"),
        (document("cap", "[cap]\nat_most = 5\nwithin_first = 2\n"), "cap.at_most", "bounds nothing"),
        (document("cap", "[cap]\nat_most = 0\nwithin_first = 2\n"), "cap.at_most", "got 0"),
        (document("fairest", ""), "kind", "'fairest'"),
        (document("none", "").replace("made for a test", "short"), "reason", "'short'"),
        (document("none", "").replace('"p"', '"Not A Name"'), "name", "'Not A Name'"),
    ],
)  # fmt: skip
def test_a_document_that_makes_no_sense_is_refused_with_the_keys_path(
    text: str, key: str, words: str
) -> None:
    with pytest.raises(PolicyRefused) as refused:
        parse_policy(text, "shop.toml")
    assert refused.value.key.startswith(key)
    assert "shop.toml" in str(refused.value)
    assert words in str(refused.value)


def test_a_group_that_the_table_lacks_is_refused_with_the_tables_groups() -> None:
    parsed = parse_policy(document("floors", '[floors]\nz = "1/2"\n'), "test")
    with pytest.raises(PolicyRefused, match=r"floors\.z.*it has: a, b"):
        compile_policy(parsed, LABELS[:2], 10)
    with pytest.raises(PolicyRefused, match=r"did you mean 'zz'\?"):
        compile_policy(parsed, ("zz", "a"), 10)


def test_a_window_that_leaves_something_over_to_nobody_is_refused() -> None:
    parsed = parse_policy(document("window", '[window]\na = "1/2"\nb = "1/3"\n'), "test")
    with pytest.raises(PolicyRefused, match="leave 1/6 over"):
        compile_policy(parsed, LABELS[:2], 10)
    assert compile_policy(parsed, LABELS[:3], 10).ceilings[2].tolist() == list(range(11))


@example(numerator=29, denominator=100, count=200)  # floor(0.29 * 100) is 28 in floats
@given(numerator=st.integers(0, 100), denominator=st.integers(1, 100), count=st.integers(1, 200))
def test_tables_are_exact_in_integers(numerator: int, denominator: int, count: int) -> None:
    share = Fraction(min(numerator, denominator), denominator)
    body = f'a = "{share.numerator}/{share.denominator}"\nb = "0/1"\n'
    floors = compiled("floors", f"[floors]\n{body}", LABELS[:3], count)
    window = compiled("window", f"[window]\n{body}", LABELS[:3], count)
    for k in range(count + 1):
        assert floors.floors[0, k] == window.floors[0, k] == math.floor(share * k)
        assert window.ceilings[0, k] == math.ceil(share * k)
        assert floors.ceilings[0, k] == k


def test_a_cap_holds_in_the_first_places_and_ends_there() -> None:
    body = "[cap]\nat_most = 2\nwithin_first = 4\n"
    assert compiled("cap", body, LABELS[:1], 7).ceilings[0].tolist() == [0, 1, 2, 2, 2, 5, 6, 7]


@pytest.mark.parametrize("path", SHOP, ids=lambda path: path.stem)
def test_the_shops_policies_parse_and_name_themselves_after_their_files(path: Path) -> None:
    parsed = parse_policy(path.read_text(), path.name)
    assert parsed.name == path.stem
    assert parsed.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_shops_policies_compile_for_the_tables_that_they_name() -> None:
    labels = {
        "provider_tier": ("large", "medium", "small", "unknown"),
        "brand": ("National", "Private"),
        "category": ("BEEF", "MILK", "YOGURT"),
        "department": ("GROCERY", "MEAT"),
    }
    tables = {name: TableGroups.of(own) for name, own in labels.items()}
    parsed = [parse_policy(path.read_text(), path.name) for path in SHOP]
    kinds = {compile_tables(policy, tables, 200).policy.kind for policy in parsed}
    assert kinds == {"none", "floors", "window", "cap", "calibrated", "stack"}
