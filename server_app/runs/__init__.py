"""What a run leaves behind: record, checkpoints, models and report."""
