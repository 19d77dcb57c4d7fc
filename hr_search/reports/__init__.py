"""Notebooks run with checked parameters and exported as pages, the index page of all runs, figures of a training step.

Knows nothing of training itself; it reads finished runs and computes no results of its own.
"""
