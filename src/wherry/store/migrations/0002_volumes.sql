-- Volumes by name. The data lies with the driver: for `local` in DATA/volumes/NAME/_data.
CREATE TABLE volume (
  name TEXT PRIMARY KEY,
  driver TEXT NOT NULL,
  created_ns INTEGER NOT NULL,
  labels TEXT,                         -- JSON object; NULL where none were given
  options TEXT,                        -- JSON object for the driver; NULL where none were given
  pending TEXT                         -- 'removing', or the ID of the container that is being made or removed with
                                       -- it: what a crash leaves so goes at the next start
);

-- Volumes that a plugin has mounted for a container: unmounted at the next start if the container is gone by then.
CREATE TABLE volume_mount (
  id TEXT PRIMARY KEY,                 -- what the plugin was told
  volume TEXT NOT NULL,
  driver TEXT NOT NULL,
  container_id TEXT NOT NULL
);
