"""Face swapping by APPLE's method: a FLUX transformer with a condition branch and an identity path.

Import the submodules; this package file imports nothing, so that light floors stay light.
"""
