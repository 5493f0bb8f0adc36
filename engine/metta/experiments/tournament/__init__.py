"""Tournaments: every two of several policies play against each other, and ratings are estimated from the results."""
