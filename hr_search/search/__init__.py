"""What happens when somebody searches: a saved index of documents, and the stages that follow the encoder: centring,
mixing with known pairs, words, a second stage. It knows nothing of training and of runs.
"""
