"""The methods themselves, in plain torch and numpy: no Dagster, no Lance."""
