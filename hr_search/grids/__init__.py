"""Grids: files that vary settings, the runs of their cells side by side, and what the settings change; searches.

It knows nothing of how a cell trains: a cell is a run of the training notebook, and everything about it is read from
its run folder.
"""
