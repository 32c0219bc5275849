"""The page of an evaluation: pictures, the model's structure, the model card, and what holds them.

Reads the results document and nothing else but the model's graph. Must not compute a metric.
"""
