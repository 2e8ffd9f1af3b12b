"""Run a table of LLM experiments over processes and threads."""
