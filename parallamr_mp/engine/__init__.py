"""Processes: seats, slots, the dispatcher's loop, the writer process, signals. Knows no LLM."""
