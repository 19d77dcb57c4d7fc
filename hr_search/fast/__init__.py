"""Encoding without waste: texts tokenised once, packed without padding, over a vocabulary cut down to what occurs.

It knows tokens and transformers; pairs, losses and runs are unknown to it.
"""
