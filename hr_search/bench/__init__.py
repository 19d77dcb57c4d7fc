"""The speed benchmark: what both contenders are asked to do, the processes that measure them, and their tables.

It knows nothing of grids, notebooks or the command line, and changes nothing in the code that it measures.
"""
