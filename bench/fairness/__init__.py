"""What is claimed of the fair stage, counted: proofs by trial, soaks, timings and published tables.

Each is a command of `python -m bench.fairness` and a target of the Makefile. Oracles are written
anew from the definitions and share nothing with the kernels; only `kernel` knows those.
"""
