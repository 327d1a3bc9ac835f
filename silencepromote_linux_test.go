package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/faultnet"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// A pair is a primary and its standby, of the test's own.
type pair struct {
	primary, standby *pgserver.Server
	table            string
	ca               string // file with the certificate that signed the servers'
}

func startPair(t *testing.T) *pair {
	t.Helper()
	primary := ownServer(t)
	p := &pair{primary: primary.Server, table: uniqueName("failover"), ca: primary.ca}
	p.standby = startStandby(t, p.primary)
	mustExec(t, open(t, p.primary.DSN()), "create table "+p.table+" (id text)")
	standby := open(t, p.standby.DSN())
	until(t, "the standby has the table", func() bool {
		return queryValue[bool](t, standby, "select to_regclass($1) is not null", p.table)
	})
	return p
}

// dsn leads to whichever of the two takes writes.
func (p *pair) dsn() string {
	return fmt.Sprintf("%s host=%s,%s port=%d,%d target_session_attrs=read-write connect_timeout=5",
		p.primary.DSN(), p.primary.Host(), p.standby.Host(), p.primary.Port(), p.standby.Port()) +
		keepalives + userTimeout
}

// secureDSN is dsn over TLS.
func (p *pair) secureDSN() string {
	return p.dsn() + fmt.Sprintf(" sslmode=verify-full host=localhost,localhost hostaddr=%s,%s sslrootcert=%s",
		p.primary.Host(), p.standby.Host(), p.ca)
}

// A writer inserts numbers until it is stopped, each once whatever comes of it.
type writer struct {
	db     *sql.DB
	table  string
	done   []string // reported as inserted
	unsent []string // failed, and said not to have been sent
	errs   map[string]int
}

func (w *writer) run(ctx context.Context) {
	w.errs = make(map[string]int)
	for ctx.Err() == nil {
		id := uniqueName("id")
		_, err := w.db.ExecContext(context.WithoutCancel(ctx), "insert into "+w.table+" values ($1)", id)
		if err == nil {
			w.done = append(w.done, id)
			continue
		}
		lost, ok := asError[*pgnotify.DisconnectError](err)
		if !ok || !lost.Sent {
			w.unsent = append(w.unsent, id)
		}
		if ok {
			w.errs[lost.Reason.String()]++
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A standby is promoted while its primary dies, or is cut off. Idle sessions are
// lost with a reason, the pool reaches the new primary, and no statement runs
// twice (D3, D10, promises 1 and 8).
func TestPromotedStandby(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]struct {
		partition bool
		reasons   []pgnotify.DisconnectReason
	}{
		// A process that does not end within 5 s, on a busy machine, is killed without a word.
		"crash":     {false, []pgnotify.DisconnectReason{pgnotify.AdminShutdown, pgnotify.CrashShutdown, pgnotify.PeerClosed}},
		"partition": {true, []pgnotify.DisconnectReason{pgnotify.NetworkTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t)
			fail, option := p.fault(t, f.partition)
			db := open(t, p.dsn(), option)
			passive, active := take(t, db), take(t, db)
			active.pc.Activate()
			writers, stop := p.write(t, db)
			until(t, "there are writes", func() bool {
				return queryValue[int](t, passive, "select count(*) from "+p.table) > 100
			})
			began := time.Now()
			fail()
			for _, s := range []*session{passive, active} {
				recv(t, s.pc.Disconnected())
				wantOneOf(t, s.pc.DisconnectErr(), f.reasons)
			}
			t.Logf("| %s of the primary | idle | %.1f s |", name, time.Since(began).Seconds())
			standby := open(t, p.standby.DSN())
			if !queryValue[bool](t, standby, "select pg_promote()") {
				t.Fatal("not promoted")
			}
			p.reach(t, db)
			stop()
			p.check(t, standby, writers)
		})
	}
}

// fault returns what makes the primary fail, and the option that a pool needs
// for that.
func (p *pair) fault(t *testing.T, partition bool) (fail func(), option func(*pgnotify.Config)) {
	t.Helper()
	if !partition {
		return func() {
			if err := p.primary.Stop(testContext(t), pgserver.Immediate); err != nil {
				t.Fatal(err)
			}
		}, func(*pgnotify.Config) {}
	}
	address := net.JoinHostPort(p.primary.Host(), strconv.Itoa(p.primary.Port()))
	link := faultnet.Start(t, "tcp", address)
	return link.Cut, func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
			if to == address {
				return link.DialContext(ctx, network, to)
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		}
	}
}

// write has some goroutines write until stop is called, which waits for them.
func (p *pair) write(t *testing.T, db *sql.DB) (writers []*writer, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for range 3 {
		w := &writer{db: db, table: p.table}
		writers = append(writers, w)
		group.Go(func() { w.run(ctx) }) // ends with the test at the latest
	}
	stop = func() {
		cancel()
		group.Wait()
	}
	t.Cleanup(stop)
	return writers, stop
}

func wantOneOf(t *testing.T, err error, reasons []pgnotify.DisconnectReason) {
	t.Helper()
	lost, ok := asError[*pgnotify.DisconnectError](err)
	for _, r := range reasons {
		if ok && lost.Reason == r && !lost.Sent {
			return
		}
	}
	t.Errorf("got %v, want one of %v", err, reasons)
}

// reach checks that the pool gets to the new primary within a few tries, and
// stays there.
func (p *pair) reach(t *testing.T, db *sql.DB) {
	t.Helper()
	began := time.Now()
	for tries := 1; ; tries++ {
		err := db.PingContext(testContext(t))
		if err == nil {
			t.Logf("| reached after promotion | try %d | %.1f s |", tries, time.Since(began).Seconds())
			break
		}
		t.Logf("try %d: %v", tries, err)
		if tries == 5 {
			t.Fatal("not reached")
		}
	}
	for range 50 {
		if queryValue[bool](t, db, "select pg_is_in_recovery()") {
			t.Error("a standby")
		}
	}
	written := func() int { return queryValue[int](t, db, "select count(*) from "+p.table) }
	n := written()
	until(t, "the writers write again", func() bool { return written() > n })
}

// check counts what the writers have left on the new primary. What the old one
// has confirmed in its last moments may not have come there.
func (p *pair) check(t *testing.T, server *sql.DB, writers []*writer) {
	t.Helper()
	if n := queryValue[int](t, server, "select count(*) from (select from "+p.table+" group by id having count(*) > 1) x"); n != 0 {
		t.Errorf("%d statements ran twice", n)
	}
	for _, w := range writers {
		if len(w.done) == 0 {
			t.Fatal("nothing was written")
		}
		last := w.done[len(w.done)-1]
		if n := queryValue[int](t, server, "select count(*) from "+p.table+" where id = $1", last); n != 1 {
			t.Errorf("the last write is there %d times", n)
		}
		if n := queryValue[int](t, server, "select count(*) from "+p.table+" where id = any($1)", pq.Array(w.unsent)); n != 0 {
			t.Errorf("%d statements ran that were not sent", n)
		}
		t.Logf("%d written, %d not sent, lost: %v", len(w.done), len(w.unsent), w.errs)
	}
}
