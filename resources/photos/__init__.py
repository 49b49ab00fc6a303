"""Photographs on disk: why rows are refused, safe decoding, folder layouts, and the mark on what we make."""
