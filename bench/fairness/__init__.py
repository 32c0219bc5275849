"""Measurements of the fair stage's kernels against exact optima."""
