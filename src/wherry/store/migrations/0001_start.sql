-- Images by ID (the digest of their config blob), what points at them, and the layers they are made of.
-- All four belong to one storage driver: with another one, an engine shows what that one has, as Docker does.
CREATE TABLE image (
  driver TEXT NOT NULL,
  id TEXT NOT NULL,                    -- sha256:… of the config
  manifest TEXT,                       -- digest of the manifest blob, NULL for what was loaded without one
  media_type TEXT,                     -- of the manifest
  created_ns INTEGER NOT NULL,         -- from the config
  stored_ns INTEGER NOT NULL,          -- when it came to this store
  size INTEGER NOT NULL,               -- sum of its layers, unpacked
  last_tagged_ns INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (driver, id)
);
CREATE TABLE image_layer (
  driver TEXT NOT NULL,
  image_id TEXT NOT NULL,
  position INTEGER NOT NULL,           -- 0 is the lowest
  diff_id TEXT NOT NULL,
  chain_id TEXT NOT NULL,
  blob TEXT,                           -- digest of the compressed blob it came as
  blob_size INTEGER,
  blob_media_type TEXT,
  PRIMARY KEY (driver, image_id, position),
  FOREIGN KEY (driver, image_id) REFERENCES image(driver, id) ON DELETE CASCADE
);
CREATE INDEX image_layer_by_chain ON image_layer(chain_id);
CREATE TABLE layer (
  driver TEXT NOT NULL,
  chain_id TEXT NOT NULL,
  parent TEXT,
  diff_id TEXT NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (driver, chain_id)
);
CREATE TABLE tag (
  driver TEXT NOT NULL,
  reference TEXT NOT NULL,             -- canonical: docker.io/library/busybox:latest, or …@sha256:…
  image_id TEXT NOT NULL,
  digest TEXT,                         -- of the manifest or index the reference resolved to, when pulled
  PRIMARY KEY (driver, reference),
  FOREIGN KEY (driver, image_id) REFERENCES image(driver, id) ON DELETE CASCADE
);
CREATE INDEX tag_by_image ON tag(driver, image_id);

-- Containers. The names table is what makes a name unique.
CREATE TABLE container (
  id TEXT PRIMARY KEY,
  created_ns INTEGER NOT NULL,
  image_id TEXT NOT NULL,
  config BLOB NOT NULL,                -- JSON: engine.records.ContainerRecord
  state BLOB NOT NULL                  -- JSON: engine.records.ContainerState
);
CREATE INDEX container_by_image ON container(image_id);
CREATE TABLE name (
  name TEXT PRIMARY KEY,
  container_id TEXT NOT NULL REFERENCES container(id) ON DELETE CASCADE
);

-- Networks and who has which address on them.
CREATE TABLE network (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  driver TEXT NOT NULL,
  created_ns INTEGER NOT NULL,
  config BLOB NOT NULL                 -- JSON: network.driver.NetworkConfig
);
CREATE TABLE endpoint (
  id TEXT PRIMARY KEY,
  network_id TEXT NOT NULL REFERENCES network(id) ON DELETE CASCADE,
  container_id TEXT NOT NULL,
  address TEXT,                        -- dotted quad
  address6 TEXT,                       -- in its shortest form
  config BLOB NOT NULL,                -- JSON: network.driver.Endpoint
  UNIQUE (network_id, container_id),
  UNIQUE (network_id, address),
  UNIQUE (network_id, address6)
);

-- Small facts about this data root: its id, the boot it last saw.
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
