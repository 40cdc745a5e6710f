"""The commands behind make: rings of tests, demo, bench, and the programs they need."""
