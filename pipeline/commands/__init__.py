"""The `orchard` commands, one file each."""
