"""Puts reference.py, the slow way to every matrix, within reach of the folders here."""
