"""Faults and overload on purpose: does the server keep what it promises?"""
