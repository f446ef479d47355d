"""The loop that speaks."""
