"""Owns what surrounds a base model: the bundled one, checks of model folders, condensed documents, mixed weights.

It knows nothing of training data, losses, training or metrics.
"""
