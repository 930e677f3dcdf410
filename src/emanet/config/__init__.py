"""The configuration: its schema, its rules, and objects from it."""
