"""Sweeps: a search for the settings with the best score."""
