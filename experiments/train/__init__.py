"""`glimpse train`, `evaluate`, `report` and `demo`."""
