"""The loop that learns: schedule, step, gates, evaluation, checkpoints, metrics."""
