"""Reports of runs, sweeps and tournaments: web pages, and their numbers as CSV and JSON."""
