"""The result file: its columns and records, appending to it, repairing and reading it, rewriting it whole."""
