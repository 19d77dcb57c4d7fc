"""What follows the encoder when somebody searches: centring, mixing with known pairs, words, a second stage, and how
their knobs are chosen. It knows nothing of training, and nothing of where embeddings are stored.
"""
