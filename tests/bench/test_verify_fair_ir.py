"""FA*IR's floors as the auditor computes them: those of the server, at exact ties too."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from bench.verify.bounds import Known, bounds
from bench.verify.document import read_document
from server.fairness.fair_ir import fair_ir_floors
from strategies.fairness import document

# Of so small denominators many tables fail with alpha exactly.
few = st.fractions(Fraction(1, 6), Fraction(5, 6), max_denominator=6)
levels = st.builds(Fraction, st.integers(1, 63), st.just(64)) | st.builds(
    Fraction, st.integers(1, 80), st.just(81)
)


@example(size=1, share=Fraction(1, 2), alpha=Fraction(1, 2), adjusted=True)
@example(size=2, share=Fraction(3, 5), alpha=Fraction(4, 25), adjusted=False)
@given(st.integers(1, 12), few, levels, st.booleans())
def test_its_floors_are_the_servers(
    size: int, share: Fraction, alpha: Fraction, adjusted: bool
) -> None:
    body = (
        f'[fa_ir]\nalpha = "{alpha}"\nwithin_first = {size}\nadjusted = {str(adjusted).lower()}\n'
        f'[fa_ir.shares]\na = "{share}"\n'
    )
    read = read_document(document("fa_ir", body), "p.toml")
    asked = bounds(read, Known({"t": {"a": 5, "b": 5}}, {}), size)
    (row,) = [limits for group, limits in asked.items() if group.endswith("a")]
    own = fair_ir_floors(size, share, alpha, adjusted=adjusted)
    assert [low for low, _ in row] == own.tolist()
