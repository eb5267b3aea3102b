"""The name service: 127.0.0.11 in every container on a user-defined network.

    container ── :53 ──► DNAT ──► sockets in its namespace ──► Resolver ──► Zone: names of its networks
                         (namespace.py)                        (resolver.py)      (zone.py)
                                                                   │
                                                                   └──► Upstream: the host's resolvers, `--dns`
                                                                        (upstream.py)

Start in service.py. messages.py is the wire format (RFC 1035): a codec of our own, because what is needed of it is
small and because it is on the way of every query. (dnspython takes 0.1 ms for a question and its answer and 14 MB of
memory; the tests compare with it.)
"""
