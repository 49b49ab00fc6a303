"""What a training leaves behind for people: its losses, TensorBoard events, and validation pictures."""
