"""The wherry command, with docker's names and flags. Start in __main__.py."""
