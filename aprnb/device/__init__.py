"""Where arrays live on a GPU: choosing one, arenas, streams."""
