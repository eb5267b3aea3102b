#!/bin/sh
# Makes the image example/debian: Debian bookworm with nginx, redis and Python, from Debian's archive alone. As root.
set -eu
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=nginx-light,redis-server,python3 bookworm "$root" http://deb.debian.org/debian
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" --numeric-owner -c . | docker import - example/debian
