"""Hypothesis profiles: quick while one works, the same examples every time in CI."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The first example of a kernel pays for its compilation: deadlines would time numba, not us.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=60, **_COMMON)
settings.register_profile("ci", max_examples=200, derandomize=True, print_blob=True, **_COMMON)
settings.load_profile("ci" if os.environ.get("CI") else "quick")
