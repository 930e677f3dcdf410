"""A task, its parts, and the trainer around it."""
