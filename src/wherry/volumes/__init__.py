"""Volumes: named data that outlives containers. Start at volumes.py; a driver is one file, see driver.py."""
