"""The Docker Engine API over HTTP: read a request, call one engine method, write a response. Start in app.py."""
