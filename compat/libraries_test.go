package compat

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// librarySessions is how many sessions the libraries have between them. River's
// client alone wants several at a time.
const librarySessions = 10

// libraries are what is used on one pool, each in a file of its own.
var libraries = []struct {
	name string
	test func(t *testing.T, db *sql.DB)
}{
	{"sqlx", testSqlx},
	{"GORM", testGORM},
	{"GORM with prepared statements", testGORMPrepared},
	{"bun", testBun},
	{"River", testRiver},
	{"goose", testGoose},
}

// W4: sqlx, GORM, bun, River and goose share one *sql.DB of pgnotify, several at
// the same time, and give each session back. None is lost or thrown away, but for
// the one that listens.
func TestLibraries(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	db := libraryDB(t, &opened)
	t.Run("together", func(t *testing.T) {
		for _, l := range libraries {
			t.Run(l.name, func(t *testing.T) {
				t.Parallel()
				l.test(t, db)
			})
		}
	})
	holdAll(t, db)
	if n := opened.Load(); n != librarySessions+1 {
		t.Errorf("%d sessions were opened, want %d and the one that listened", n, librarySessions)
	}
}

// libraryDB returns a pool for a database of its own: River and goose have tables
// with fixed names. It counts the sessions that it opens.
func libraryDB(t *testing.T, opened *atomic.Int64) *sql.DB {
	t.Helper()
	s := server(t)
	direct := open(t, "postgres", s.DSN())
	name := fmt.Sprintf("libraries_%d", time.Now().UnixNano())
	if _, err := direct.ExecContext(t.Context(), "create database "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := direct.Exec("drop database " + name + " with (force)"); err != nil {
			t.Error(err)
		}
	})
	config, err := pgnotify.ParseConfig(s.DSN() + " dbname=" + name)
	check(t, "config", err)
	config.OnConnect = func(context.Context, *pgnotify.Conn) error {
		opened.Add(1)
		return nil
	}
	connector, err := pgnotify.NewConnector(config)
	check(t, "connector", err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(librarySessions)
	db.SetMaxIdleConns(librarySessions)
	return db
}

// holdAll takes every session that the pool may have, at the same time, which
// waits for those that are still out. None is in a transaction.
func holdAll(t *testing.T, db *sql.DB) {
	t.Helper()
	ctx := deadline(t)
	for range librarySessions {
		conn, err := db.Conn(ctx)
		if err != nil {
			t.Fatalf("a session has not come back: %v", err)
		}
		defer conn.Close()
		pc, err := pgnotify.FromConn(conn)
		check(t, "FromConn", err)
		if status := pc.TransactionStatus(); status != pgnotify.TransactionIdle {
			t.Errorf("a session of the pool is %v", status)
		}
	}
}

// deadline returns the context of one test.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// check ends the test at an error.
func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// checkUnique checks that err is, under whatever a library has put around it, the
// server's, for a key that exists already.
func checkUnique(t *testing.T, err error, constraint string) {
	t.Helper()
	var pqErr *pq.Error
	if !errors.As(err, &pqErr) || pqErr.Code != "23505" || pqErr.Constraint != constraint {
		t.Errorf("%v (%T), want a *pq.Error 23505 of %s", err, err, constraint)
	}
}

// count returns how many rows a table has, seen from outside the libraries.
func count(t *testing.T, db *sql.DB, table string) (n int) {
	t.Helper()
	check(t, "count", db.QueryRowContext(t.Context(), "select count(*) from "+table).Scan(&n))
	return n
}
