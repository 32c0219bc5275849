"""Logs as JSON lines on standard error, each with its process; no line carries a user id.

An exception is logged by its type and frames: its text may hold a caller's
data, so it appears at level debug only.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog


def _exceptions(with_text: bool) -> structlog.typing.Processor:
    def processor(
        logger: Any, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        error = event.pop("exc_info", None)
        if isinstance(error, BaseException):
            event["exception"] = type(error).__name__
            event["frames"] = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(error.__traceback__)
            ]
            if with_text:
                event["exception_text"] = str(error)
        return event

    return processor


def _process(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["pid"] = os.getpid()
    return event


def configure_logs(level: str) -> None:
    """Set the process's log form and least severity."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _process,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exceptions(with_text=level == "debug"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
