"""Swaps outside the lake (`orchard swap`): photographs through the stages that annotate the lake's rows."""
