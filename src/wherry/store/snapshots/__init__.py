"""Storage drivers: where layers and writable layers lie. Start in driver.py."""
