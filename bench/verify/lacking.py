"""The claim that a receipt tells nothing of rules which the policy lacks."""

from __future__ import annotations

from collections.abc import Iterator

from bench.verify.bounds import Document
from bench.verify.claims import Claim, claim, close
from bench.verify.evidence import Evidence
from equipoise.v1 import recommendation_pb2 as pb


def nothing_of_other_rules(evidence: Evidence, document: Document) -> Claim:
    """What a receipt may tell depends on the policy's rules, and on whether it was skipped."""
    pages = [*evidence.earlier, evidence]
    found = (why for page in pages for why in _foreign(page, document))
    return claim("the receipt tells nothing of other rules", next(found, ""))


def _foreign(page: Evidence, document: Document) -> Iterator[str]:
    receipt = page.receipt
    skipped = receipt.status == pb.RECEIPT_STATUS_SKIPPED
    calibrated = {table for kind, table, _ in document.rules if kind == "calibrated"}
    told = [gap.group_table for gap in receipt.calibration]
    if strange := sorted(set(told) - calibrated):
        yield f"it tells a distance to shares of table {strange[0]!r}, which no rule calibrates"
    if len(set(told)) < len(told):
        yield "it tells the distance to shares of one table twice"
    groups = [part.group for part in receipt.exposure]
    if len(set(groups)) < len(groups):
        yield "it tells the exposure of one group twice"
    if (skipped or not document.tables) and (receipt.exposure or receipt.first_bad_prefix.prefix):
        yield "it tells of groups, and the list was made by none"
    if skipped and (receipt.calibration or receipt.utility_of_best):
        yield "it was skipped, and tells what the fair stage did"
    if (
        receipt.status == pb.RECEIPT_STATUS_MET
        and not document.tables
        and not close(receipt.utility_of_best, receipt.utility_kept)
    ):
        yield (
            f"nothing is bounded, and it says {receipt.utility_of_best:.6f} of the best list, "
            f"{receipt.utility_kept:.6f} of plain order"
        )
    why = receipt.skip_reason
    none, empty = pb.SKIP_REASON_POLICY_NONE, pb.SKIP_REASON_EMPTY_LIST
    fits = {none} if document.kind == "none" else set()
    fits |= set() if page.items or page.candidates else {empty}
    if why not in (fits if skipped else {pb.SKIP_REASON_UNSPECIFIED}):
        yield "the reason why it was skipped is none of this list"
