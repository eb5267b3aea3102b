"""The launcher, and the parent process of each container, which outlives the daemon. Start in protocol.py."""
