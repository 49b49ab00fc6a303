"""Faces in photographs: detection, mesh, landmarks, iris, parsing, alignment and the condition image.

Coordinates are float32 pixels of the upright photograph, x to the right and y down, with the origin at the
outer corner of the top-left pixel: the centre of pixel (column, row) lies at (column + 0.5, row + 0.5).
"""
