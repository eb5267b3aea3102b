"""wherryd: builds the engine and the API, wires them together and serves. Start in __main__.py."""
