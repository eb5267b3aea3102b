"""The launcher, and the parent process of each container, which outlives the daemon. Start in protocol.py.

client.py is the daemon's side. Beside the containers run __main__.py → launcher.py → server.py (one container's state
machine), which uses stdio.py (streams), maker.py (our runtime) or external.py (another), and loop.py under all of it.
"""
