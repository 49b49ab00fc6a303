"""The experts that guide a swap: identity, face parsing, gaze and pixels (DiffFace, section 3.3)."""
