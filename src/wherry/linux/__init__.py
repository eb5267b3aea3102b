"""The kernel as Python functions: each call by its own name, failures as OSError. No policy here."""
