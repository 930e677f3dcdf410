"""Getting, checking and unpacking benchmarks."""
