"""The built-in network drivers, by their Docker names."""
