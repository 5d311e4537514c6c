"""Shipped configurations; see vitlit/cli/configs.py."""
