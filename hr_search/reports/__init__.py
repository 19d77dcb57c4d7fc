"""Notebooks run with checked parameters and exported as pages, and the index page of all runs.

Knows nothing of what the notebooks compute; it reads finished runs and computes no numbers of its own.
"""
