"""The command line: the verbs of `python -m hr_search` and their flags.

It knows nothing of how the work is done: each verb reads its flags, calls the package and prints what comes back.
"""
