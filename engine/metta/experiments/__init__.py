"""Experiments: several runs that belong together, the seeds of one configuration or the trials of a sweep."""
