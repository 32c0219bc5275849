"""`equipoise verify`: a receipt recomputed by plain Python that shares nothing with the server's kernels."""
