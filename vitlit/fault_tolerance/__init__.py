"""What a run survives: resume, signals, lost processes and values that are not finite."""
