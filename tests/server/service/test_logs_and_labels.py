"""What must not leave a server: texts of exceptions in logs, labels without end in metrics."""

from __future__ import annotations

import json

import pytest
import structlog

from server.service.logs import configure_logs
from server.service.metrics import BoundedLabels


@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
def test_the_text_of_an_exception_is_for_debugging_only(
    level: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(level)
    try:
        raise ValueError("user 4711 bought insulin")
    except ValueError as error:
        structlog.get_logger().error("call failed", exc_info=error)
    finally:
        structlog.reset_defaults()
    line = capsys.readouterr().err
    assert json.loads(line)["exception"] == "ValueError"
    assert ("insulin" in line) is told


def test_past_the_bound_new_labels_are_other_and_old_ones_stay() -> None:
    label = BoundedLabels(2)
    assert [label(name) for name in ("a", "b", "c", "a", "d", "")] == [
        "a", "b", "other", "a", "other", "",
    ]  # fmt: skip
