"""The use cases: what happens when somebody creates, starts, stops or removes something. Start in engine.py."""
