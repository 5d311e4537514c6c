"""The commands: what they do, with Lightning or without, and their last words."""
