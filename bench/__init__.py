"""Measurements: wherry beside dockerd, podman and bare runc. Start in __main__.py."""
