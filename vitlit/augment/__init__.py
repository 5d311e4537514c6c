"""Random augmentation of whole batches, with separate draws for each image (torch only)."""
