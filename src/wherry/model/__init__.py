"""The values of the Docker Engine API, typed, with its own spelling on the wire. No I/O."""
