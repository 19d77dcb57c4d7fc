"""Suites: many search tasks measured with many models, one cell after another, and the tables that compare them.

A suite trains nothing. Every number comes from the stored rows of a cell, a row per query, so tables are made anew
without a model.
"""
