"""Load, invariants and the gate: what decides whether a release may ship. Speaks to servers only over the wire."""
