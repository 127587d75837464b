CREATE TABLE manifest (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, digest text NOT NULL UNIQUE,
    media_type text, config_digest text, architecture text, os text, variant text, layer_count integer,
    total_size_bytes integer, created_at datetime_text);
CREATE TABLE image_ref (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, reference text NOT NULL UNIQUE,
    manifest_id integer NOT NULL, created_at datetime_text, updated_at datetime_text,
    FOREIGN KEY (manifest_id) REFERENCES manifest (id) ON DELETE CASCADE);
CREATE TABLE config (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, manifest_id integer NOT NULL UNIQUE,
    digest text NOT NULL, env text, cmd text, entrypoint text, working_dir text, user text, labels text,
    stop_signal text, created_at datetime_text,
    FOREIGN KEY (manifest_id) REFERENCES manifest (id) ON DELETE CASCADE);
CREATE TABLE layer (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, diff_id text NOT NULL UNIQUE,
    blob_digest text NOT NULL, media_type text, compressed_size_bytes integer, erofs_size_bytes integer,
    created_at datetime_text, last_used_at datetime_text);
CREATE TABLE manifest_layer (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, manifest_id integer NOT NULL,
    layer_id integer NOT NULL, position integer NOT NULL,
    FOREIGN KEY (manifest_id) REFERENCES manifest (id) ON DELETE CASCADE,
    FOREIGN KEY (layer_id) REFERENCES layer (id) ON DELETE RESTRICT);
