"""Random augmentation of whole batches, drawn for each image from its address (torch only)."""
