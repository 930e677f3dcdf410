"""Reports on many runs: tables, figures and one page, made from the files that the runs left behind."""
