"""One thin file per stage of the DAG, and the stage runner that the row stages share."""
