"""The commands: what they do, with or without Lightning, and what they print at the end."""
