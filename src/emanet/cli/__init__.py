"""From the command line to the jobs."""
