"""How good a model is: inference, scores, calibration, significance, reports."""
