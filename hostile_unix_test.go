//go:build unix

package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// hostile are objects of the first schema in the search path that take the names of what
// pgnotify asks the server for. Each fails where it is taken for the real one.
const hostile = `
create function evil.fail() returns pg_catalog.bool language plpgsql as $$ begin raise 'taken for the real one'; end $$;
create domain evil.text as pg_catalog.text check (evil.fail());
create domain evil.name as pg_catalog.name check (evil.fail());
create domain evil.bool as pg_catalog.bool check (evil.fail());
create domain evil.int4 as pg_catalog.int4 check (evil.fail());
create domain evil.oid as pg_catalog.oid check (evil.fail());
create function evil.pg_backend_pid() returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.pg_is_in_recovery() returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.pg_notification_queue_usage() returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.pg_listening_channels() returns setof pg_catalog.bool language sql as 'select evil.fail()';
create function evil.pg_notify(pg_catalog.text, pg_catalog.text) returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.current_setting(pg_catalog.text) returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.set_config(pg_catalog.text, pg_catalog.text, pg_catalog.bool) returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.same(pg_catalog.text, pg_catalog.text) returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.same(pg_catalog.name, pg_catalog.name) returns pg_catalog.bool language sql as 'select evil.fail()';
create function evil.same(pg_catalog.int4, pg_catalog.int4) returns pg_catalog.bool language sql as 'select evil.fail()';
create operator evil.= (leftarg = pg_catalog.text, rightarg = pg_catalog.text, function = evil.same);
create operator evil.= (leftarg = pg_catalog.name, rightarg = pg_catalog.name, function = evil.same);
create operator evil.= (leftarg = pg_catalog.int4, rightarg = pg_catalog.int4, function = evil.same);
create table evil.pg_listening_channels ();
create table evil.pg_settings ();
create table evil.pg_stat_activity ();`

// hostileDatabase makes a database whose search path begins with hostile objects, and
// returns its name.
func hostileDatabase(t *testing.T) string {
	t.Helper()
	admin, name := open(t, dsn(t)), uniqueName("hostile")
	mustExec(t, admin, "create database "+name)
	t.Cleanup(func() {
		// The sessions of a pooler outlast those of the test.
		mustExec(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
		mustExec(t, admin, "drop database "+name)
	})
	db := open(t, dsn(t)+" dbname="+name)
	mustExec(t, db, "create schema evil")
	mustExec(t, db, hostile)
	mustExec(t, db, "alter database "+name+" set search_path = evil, pg_catalog")
	db.Close()
	return name
}

// Whatever stands ahead of pg_catalog in the search path, pgnotify's own statements mean
// the server's own objects.
func TestHostileSearchPath(t *testing.T) {
	t.Parallel()
	name := hostileDatabase(t)
	t.Run("direct", func(t *testing.T) { testHostileSearchPath(t, dsn(t)+" dbname="+name) })
	t.Run("pooler", func(t *testing.T) { // which does not tell what kind of server it is
		testHostileSearchPath(t, startPgBouncer(t, "session", 20)+" dbname="+name)
	})
}

func testHostileSearchPath(t *testing.T, dsn string) {
	db := open(t, dsn)
	if _, err := db.ExecContext(testContext(t), "select 1::text"); err == nil {
		t.Fatal("the search path is not hostile")
	}
	t.Run("Listener", func(t *testing.T) { testHostileListener(t, db, dsn) })
	t.Run("session", func(t *testing.T) { testHostileSession(t, db) })
	for _, attrs := range []string{"any", "read-write", "primary", "prefer-standby"} {
		if err := open(t, dsn+" target_session_attrs="+attrs).PingContext(testContext(t)); err != nil {
			t.Errorf("%s: %v", attrs, err)
		}
	}
	for _, attrs := range []string{"read-only", "standby"} {
		wantInOrder(t, connectError(t, dsn+" target_session_attrs="+attrs), "target_session_attrs="+attrs)
	}
}

func testHostileListener(t *testing.T, db *sql.DB, dsn string) {
	l, events := listen(t, dsn, probing, func(c *pgnotify.ListenerConfig) { c.Heartbeat = time.Millisecond })
	channel := uniqueName("a")
	sub := subscribe(t, l, channel)
	for range 3 {
		if h := mustPingListener(t, l); h.Channels != 1 {
			t.Errorf("%+v", h)
		}
	}
	notify(t, db, channel, "x")
	wantPayload(t, sub, "x")
	if lost := events.all(pgnotify.ListenerDisconnected, pgnotify.ListenerReconnecting); len(lost) > 0 {
		t.Errorf("%v", lost)
	}
}

func testHostileSession(t *testing.T, db *sql.DB) {
	ctx, channel := testContext(t), uniqueName("b")
	s := take(t, db)
	if err := s.pc.Listen(ctx, channel); err != nil {
		t.Fatal(err)
	}
	if err := s.Conn.PingContext(ctx); err != nil {
		t.Error(err)
	}
	if err := pgnotify.Notify(ctx, s.Conn, channel, "session"); err != nil {
		t.Error(err)
	}
	err := pgnotify.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		return pgnotify.InSavepoint(ctx, tx, func() error { return pgnotify.Notify(ctx, tx, channel, "transaction") })
	})
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"session", "transaction"} {
		if n, err := s.pc.WaitForNotification(ctx); err != nil || n.Payload != want {
			t.Errorf("%+v, %v", n, err)
		}
	}
	if err := s.pc.Unlisten(ctx); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := s.ExecContext(short, "select pg_catalog.pg_sleep(60)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := s.Conn.PingContext(ctx); err != nil {
		t.Error(err)
	}
}
