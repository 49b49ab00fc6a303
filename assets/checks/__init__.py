"""Checks of the data that stages wrote: pure functions of the lake, shown by Dagster and `orchard check`."""
