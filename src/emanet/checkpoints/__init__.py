"""Anybody's weights in, ours out."""
