"""Measurements: wherry beside dockerd, podman and bare OCI runtimes. Start in __main__.py; docs/benchmarks.md explains."""
