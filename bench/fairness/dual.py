"""P-MMF's projection as a general solver has it, to know what the closed form saves.

The 2^P constraints of the paper are written with P more variables: u >= 0 and u >= -z for z_p =
target_p mu_p, and sum u <= strength. So the solver has a quadratic program of 2 P variables and
2 P + 1 constraints, which is as kind to it as can be without solving the problem on paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, minimize

from server.fairness.amortise import project_dual
from server.fairness.types import Float64


@dataclass(frozen=True)
class Dual:
    """A dual that is to be projected."""

    dual: Float64
    targets: Float64
    strength: float

    @staticmethod
    def drawn(rng: np.random.Generator, n: int) -> Dual:
        """As after a step that went too far."""
        targets = rng.dirichlet(np.full(n, 2.0))
        return Dual(rng.normal(size=n) / (n * targets), targets, 0.1)

    def ours(self) -> Float64:
        """`[P]`, target times dual, in closed form."""
        return self.targets * project_dual(self.dual, self.targets, self.strength)

    def by_slsqp(self) -> Float64:
        """The same by scipy's SLSQP."""
        n = len(self.dual)
        wanted = self.targets * self.dual
        same = np.eye(n)
        limits = np.block([[same, same], [np.zeros(n), -np.ones(n)]])
        low = np.append(np.zeros(n), -self.strength)

        def distance(both: Float64) -> float:
            return float(np.sum((both[:n] - wanted) ** 2))

        def slope(both: Float64) -> Float64:
            return np.concatenate([2 * (both[:n] - wanted), np.zeros(n)])

        found = minimize(
            distance,
            np.zeros(2 * n),
            jac=slope,
            method="SLSQP",
            bounds=Bounds(np.repeat([-np.inf, 0.0], n), np.full(2 * n, np.inf)),
            constraints=LinearConstraint(limits, low, np.inf),
            options={"ftol": 1e-12, "maxiter": 1000},
        )
        nearest: Float64 = found.x[:n]
        return nearest
