"""Tables and figures from records. Reads `results/` only; trains nothing, parses no path."""
