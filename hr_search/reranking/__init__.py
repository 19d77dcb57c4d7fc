"""The second stage: a cross-encoder that reads a query and a document together, how it is trained, saved and asked.
It knows nothing of indexes and of what a search does with its scores.
"""
