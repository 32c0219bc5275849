"""Does the gate notice? Real servers, real evaluations, bundles damaged on purpose: `make gate-selftest`."""
