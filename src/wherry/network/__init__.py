"""Container networking on one host: drivers, endpoints, addresses and the firewall. Start in driver.py."""
