"""The Docker Engine API seen from a client: start at `api.Client`.

`address` says where an engine listens, `http` speaks HTTP/1.1 to it, `jsontext` reads and writes the bodies
and `api` puts the three together. Front ends start once per command, so nothing here imports http.client,
asyncio, json, socket or re: each costs as much as the rest of a command (`socket` or `json` 5 ms where Python
itself takes 8).
"""
