"""One audit of a tiny bundle for all of its tests: it is the slowest thing they share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from server.bundle import DataInfo, load_bundle
from strategies.audited import Shop, audited
from strategies.bundles import tiny_bundle
from strategies.purchases import shop_rows, tables
from training.audit.audit import Protocol, audit
from training.data.prepare import Prepared, prepare_tables
from training.data.tables import users_from
from training.evaluate import Evaluation, evaluate
from training.evaluate import Protocol as EvaluationProtocol


@pytest.fixture(scope="session")
def audit_prepared() -> Prepared:
    people = users_from(
        pl.DataFrame(
            {
                "user": [f"user-{n:02}" for n in range(30)],
                "income": ["low", "high", None] * 10,
                "sex": ["f"] * 27 + ["m"] * 3,
            }
        )
    )
    return prepare_tables(dataclasses.replace(tables(shop_rows()), users=people))


@pytest.fixture(scope="session")
def audit_bundle(audit_prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    until = audit_prepared.split.validation_until_ms
    data = DataInfo(
        source="by hand", until_unix_ms=until, users=1, items=60, interactions=1, digest="0" * 64
    )
    tiny_bundle(path, data=data)
    return path


@pytest.fixture(scope="session")
def audit_document(audit_bundle: Path, audit_prepared: Prepared) -> dict[str, Any]:
    protocol = Protocol(resamples=200, min_users=6, tradeoff_users=4)
    return audit(load_bundle(audit_bundle), audit_prepared, protocol)


@pytest.fixture(scope="session")
def shop_evaluation(audit_bundle: Path, audit_prepared: Prepared) -> Evaluation:
    protocol = EvaluationProtocol(resamples=300, min_users=5)
    return evaluate(load_bundle(audit_bundle), audit_prepared, protocol)


@pytest.fixture(scope="session")
def shop(audit_bundle: Path, audit_prepared: Prepared) -> Shop:
    return audited(audit_bundle, audit_prepared)
