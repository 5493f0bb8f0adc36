"""The command line of metta: parses arguments, calls `metta.api` and prints results. No other package prints."""
