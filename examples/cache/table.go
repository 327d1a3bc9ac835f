package main

import (
	"context"
	"database/sql"
	"time"
)

const channel = "pgnotify_cache"

// schema makes each change send its key, within its transaction: the notification is
// delivered if and when the change is committed. A change of many rows sends each key
// once.
const schema = `
CREATE TABLE pgnotify_cache (
	key text PRIMARY KEY CHECK (octet_length(key) < 8000), -- or it would not fit into a payload
	value text NOT NULL);
CREATE FUNCTION pgnotify_cache_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF TG_OP <> 'INSERT' THEN PERFORM pg_notify('` + channel + `', OLD.key); END IF;
	IF TG_OP <> 'DELETE' THEN PERFORM pg_notify('` + channel + `', NEW.key); END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON pgnotify_cache
	FOR EACH ROW EXECUTE FUNCTION pgnotify_cache_changed();
INSERT INTO pgnotify_cache VALUES ('apple', '3'), ('pear', '5'), ('settled', '0');
INSERT INTO pgnotify_cache SELECT 'key ' || i, '0' FROM generate_series(1, 100) i`

// A table is what the cache serves from memory.
type table struct{ db *sql.DB }

func (t table) create(ctx context.Context) error {
	_, err := t.db.ExecContext(ctx, schema)
	return err
}

func (t table) set(ctx context.Context, key, value string) error {
	_, err := t.db.ExecContext(ctx, "UPDATE pgnotify_cache SET value = $2 WHERE key = $1", key, value)
	return err
}

// all returns what is in the table.
func (t table) all(ctx context.Context) (map[string]string, error) {
	rows, err := t.db.QueryContext(ctx, "SELECT key, value FROM pgnotify_cache")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := make(map[string]string)
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return nil, err
		}
		all[key] = value
	}
	return all, rows.Err()
}

// Close removes the table, even after Ctrl-C.
func (t table) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := t.db.ExecContext(ctx, "DROP TABLE pgnotify_cache; DROP FUNCTION pgnotify_cache_changed()")
	return err
}
