"""Shipped configurations; see vitlit/shipped.py."""
