"""The report of one or several runs as an HTML page."""
