"""The command line: `spectrain`."""
