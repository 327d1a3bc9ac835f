package feed

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"
)

const channel = "pgnotify_live"

// schema makes each new entry send itself.
//
// Entries are numbered in the order in which they are committed. A sequence does not do
// that: there, 6 may appear after 7, and a reader that has seen 7 and asks for newer
// entries never gets 6. The row of pgnotify_live_last is locked from the moment when a
// transaction takes its number until the transaction ends.
//
// 280 characters fit into a payload, however JSON writes them.
const schema = `
CREATE TABLE pgnotify_live_last (id bigint NOT NULL);
INSERT INTO pgnotify_live_last VALUES (0);
CREATE TABLE pgnotify_live (
	id bigint PRIMARY KEY,
	at timestamptz NOT NULL DEFAULT now(),
	text text NOT NULL CHECK (length(text) BETWEEN 1 AND 280));
CREATE FUNCTION pgnotify_live_number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	UPDATE pgnotify_live_last SET id = id + 1 RETURNING id INTO NEW.id;
	RETURN NEW;
END $$;
CREATE TRIGGER number BEFORE INSERT ON pgnotify_live
	FOR EACH ROW EXECUTE FUNCTION pgnotify_live_number();
CREATE FUNCTION pgnotify_live_inserted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM pg_notify('` + channel + `', row_to_json(NEW)::text);
	RETURN NULL;
END $$;
CREATE TRIGGER inserted AFTER INSERT ON pgnotify_live
	FOR EACH ROW EXECUTE FUNCTION pgnotify_live_inserted()`

// Create creates the table, its triggers and their functions.
func Create(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, schema)
	return err
}

// Drop removes what Create has created.
func Drop(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `DROP TABLE pgnotify_live, pgnotify_live_last;
		DROP FUNCTION pgnotify_live_number(), pgnotify_live_inserted()`)
	return err
}

// An Entry is a row of the table: in a notification, and for the browser.
type Entry struct {
	ID      int64     `json:"id"`
	At      time.Time `json:"at"`
	Text    string    `json:"text"`
	History bool      `json:"history,omitempty"` // it was read from the table
}

// Insert adds an entry.
func Insert(ctx context.Context, db *sql.DB, text string) error {
	_, err := db.ExecContext(ctx, "INSERT INTO pgnotify_live (text) VALUES ($1)", text)
	return err
}

// page is how many entries are read at a time. They are in memory while a browser takes
// them, however slowly, so no database session waits for the browser.
const page = 100

// after returns the next page of entries, those that come after the id last.
func after(ctx context.Context, db *sql.DB, last int64) ([]Entry, error) {
	rows, err := db.QueryContext(ctx, `SELECT row_to_json(e) FROM pgnotify_live e
		WHERE id > $1 ORDER BY id LIMIT $2`, last, page)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var entries []Entry
	for rows.Next() {
		var text []byte
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		e, err := parse(text)
		if err != nil {
			return nil, err
		}
		e.History = true
		entries = append(entries, e)
	}
	return entries, rows.Err()
}

// newest is how many entries a browser gets that has none.
const newest = 50

// begin returns the id after which a browser gets entries, given the newest that it
// says it has, or 0 if it has none.
func begin(ctx context.Context, db *sql.DB, last int64) (id int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT CASE WHEN $1 BETWEEN 1 AND id THEN $1 ELSE greatest(id - $2, 0) END
		FROM pgnotify_live_last`, last, newest).Scan(&id)
	return id, err
}

// parse reads an entry as row_to_json has written it.
func parse(text []byte) (e Entry, err error) {
	return e, json.Unmarshal(text, &e)
}
