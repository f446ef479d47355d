"""Where two forward passes of one model part, and which known mistake makes the difference."""
