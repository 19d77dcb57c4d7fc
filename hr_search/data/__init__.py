"""Owns everything between a file and a search task: reading tables, cleaning, redaction, splits and leak checks.

It knows nothing of encoders, losses, training or metrics.
"""
