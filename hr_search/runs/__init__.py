"""What training leaves behind: a folder for each run, the tables that all runs share, the origin of their numbers.

Knows nothing of how a model is trained, scored or drawn; tables come to it finished.
"""
