"""Pure decisions: plain objects that are given the time and return what to do. No I/O, no clock, no sleep."""
