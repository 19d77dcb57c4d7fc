"""What every room needs: errors, files and locks, places, devices, signals, progress, the Hub, choice lists, figures.

Knows no data, no model and no run, and imports no other room.
"""
