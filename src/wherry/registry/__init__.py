"""The client side of the OCI distribution protocol. Start in fetch.py."""
