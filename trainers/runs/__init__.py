"""What a run leaves behind and shows: its directory, metrics, alarms, display, trackers."""
