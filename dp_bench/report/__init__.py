"""From records to tables. Reads `results/` alone; trains nothing, parses no path."""
