"""The Vision Transformer: tensors in, tensors out (torch only)."""
