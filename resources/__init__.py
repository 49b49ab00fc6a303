"""What the stages stand on: the lake, photographs on disk, weights, compute."""
