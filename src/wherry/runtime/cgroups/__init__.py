"""Control groups, version 1 and 2, behind one small Protocol (driver.py). Start with detect.py."""
