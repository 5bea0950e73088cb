"""How the shipped weights were made; not listed as methods."""
