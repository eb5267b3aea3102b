"""The OCI runtime: a bundle in, a contained process out. Start in lifecycle.py."""
