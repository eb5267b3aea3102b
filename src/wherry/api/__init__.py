"""The Docker Engine API over HTTP: read a request, call one engine method, write the answer.

Start in app.py, which knows the routes and turns errors into answers; there is one module of routes per resource.
`contract.py` says what the API asks of an engine. A connection's first protocol is in hijack.py (it counts requests
off the socket by framing.py, so that a raw stream behind a request is never lost); streams.py has the answers that
go on for a while, versions.py what differs from one API version to the next.
"""
