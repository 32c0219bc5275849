"""Training at sizes that nobody waits for by accident: what it costs, and how that grows.

Owns made-up shops of any size, the runs of `equipoise train` on them, and the verdict over their time and
memory. Knows of training only what its command line promises.
"""
