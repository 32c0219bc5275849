"""Load: locust in a process of its own, raw samples, and a summary of them.

Only `locustfile` may import locust: after it, grpc.aio hangs in that process.
"""
