"""The command line: flags become one configuration, errors become exit codes. No business logic."""
