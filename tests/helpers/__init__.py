"""What several test modules build: no test module imports another."""
