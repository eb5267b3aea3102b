"""A container's files, read and written from a process that has nothing but them.

    daemon ──spawn──► helper              loads everything once; ends with the daemon
                        └─fork─► view     one container's root: joined (running) or mounted (stopped), nothing else
                                   └─fork─► job    stat, pack, extract, compare: one thing, then it ends

A view has left the host's mounts behind before a container's name is looked up; a job has given up every capability
that could lead back. `client.py` is the daemon's side; `view.py` goes in; `jobs.py` is what is done inside.
"""
