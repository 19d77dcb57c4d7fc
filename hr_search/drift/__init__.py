"""Owns how training moved the embeddings of a run's probe texts: exact measures, maps of them, and figures.

It reads what a run kept and knows nothing of encoders, training or search results.
"""
