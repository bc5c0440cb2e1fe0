"""Tasks: what a run is judged by, one file each. The table of methods, and a run's record, say which one."""
