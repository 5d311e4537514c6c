"""What a model's features are good for: probes and nearest images."""
