"""The theorems of fair lists, checked against the kernels or any live server with Hypothesis."""
