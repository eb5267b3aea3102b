"""Log drivers: one file each, behind the Protocol in driver.py. Run inside the shim."""
