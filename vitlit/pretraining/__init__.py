"""Masked autoencoding (He et al., 2022): a ViT learns from images without labels."""
