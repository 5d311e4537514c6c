"""What a model's features are good for: probes, nearest images, anomalies."""
