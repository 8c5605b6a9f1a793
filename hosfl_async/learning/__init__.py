"""Numbers: the only room that imports torch."""
