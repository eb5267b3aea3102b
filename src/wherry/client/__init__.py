"""A small typed HTTP client of the Engine API, for the command line and for tests."""
