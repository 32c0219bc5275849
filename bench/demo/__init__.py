"""The demo: the whole story on a year of real purchases, told step by step.

Owns the order of the steps and the telling. It runs the same `equipoise`
commands that a user would; what it prints comes from the files they leave.
"""
