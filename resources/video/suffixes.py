"""Which files are taken for clips; known without FFmpeg's libraries."""

CLIP_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""Names that are taken for clips."""
