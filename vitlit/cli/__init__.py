"""The command line: parsing, settings, what a command starts from, and its last words."""
