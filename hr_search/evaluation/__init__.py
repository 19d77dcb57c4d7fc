"""Owns judging search results: ranking metrics, lexical floors, intervals and tests, comparisons, calibration, figures.

It takes encoders, tasks and the tables of runs as given, and knows nothing of training, grids or reports.
"""
