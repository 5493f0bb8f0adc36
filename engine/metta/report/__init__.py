"""Runs side by side on one page: curves, what differs between their configs, and the newest replay."""
