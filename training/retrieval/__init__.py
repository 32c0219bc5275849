"""Candidates from a large catalogue: the search that a bundle of a model of histories brings, and its measurement."""
