"""CVs as a side of their own: files read into records and texts, names recognised and left out, and the audit of
rankings by swapped names.
"""
