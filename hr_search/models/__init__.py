"""Owns what happens around a base model: the bundled one, the checks on a model folder, and the document condenser.

It knows nothing of training data, losses, training or metrics.
"""
