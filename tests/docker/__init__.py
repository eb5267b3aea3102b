"""Integration: a real daemon driven by the real docker CLI, docker-py and plain HTTP.

Start with conftest.py (what a test is given) and engine.py (the daemon under test). acts.py holds what is compared with
recordings of a live dockerd; record.py makes those recordings.
"""
