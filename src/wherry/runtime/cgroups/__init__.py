"""Control groups, version 1 and 2, behind one small Protocol. Start in driver.py."""
