"""The command line: parsing, settings, and what a command starts from."""
