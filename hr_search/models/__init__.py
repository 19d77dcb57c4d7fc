"""Owns what surrounds a base model: the bundled one, opening and checking folders, prompts, the saved layout,
condensed documents, mixed weights.

It knows nothing of training data, losses, training or metrics.
"""
