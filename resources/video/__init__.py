"""Clips: frames one by one, sound as packets, and the marks of a made clip."""
