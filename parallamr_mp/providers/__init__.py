"""Kinds of API a sweep can ask, one module each; import the one you need."""
