"""What stays on disk: blobs, layers, images, snapshots and the database."""
