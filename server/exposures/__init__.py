"""What each group was shown so far, over all lists: counted, durable, shared by processes."""

from server.exposures.ledger import ExposureAccount, ExposureLedger

__all__ = ["ExposureAccount", "ExposureLedger"]
