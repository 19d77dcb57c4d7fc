"""Owns what is said about search results: ranking metrics, lexical floors, intervals and tests, comparisons, figures.

It takes encoders, tasks and the tables of runs as they are, and knows nothing of training, mining or grids.
"""
