"""What a run is asked for: its settings with their names and bounds, and the bundled recipes."""
