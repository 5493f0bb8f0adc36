"""The command line of metta. It parses arguments, calls `metta.api` and prints; it alone prints."""
