"""HTML report of one or several runs: metric curves, config differences and replays."""
