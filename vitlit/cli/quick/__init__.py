"""Commands that need no training, on one device, without Lightning: its import takes seconds."""
