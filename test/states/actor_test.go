package states_test

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"github.com/pgnotify/pgnotify"
)

// An actor is a goroutine of a program that uses the pool. It makes one call at a time.
type actor struct {
	w     *world
	dice  *rand.Rand
	first token
	last  token
	outer context.Context // of the transaction that calls belong to; nil outside
	spent bool            // the session that calls share is lost, as it must be
}

func (w *world) newActor(number int) *actor {
	first := token(number+1) * 100_000
	return &actor{w: w, dice: w.diceFor(1<<61 + uint64(number)), first: first, last: first}
}

func (a *actor) token() token {
	a.last++
	return a.last
}

// A querier is a *sql.DB, a *sql.Conn or a *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// act makes calls until something is wrong.
func (a *actor) act() {
	for range callsOfAnActor {
		if a.w.failures.Load() > 0 {
			return
		}
		a.spent = false
		switch n := a.dice.IntN(10); {
		case n < 5:
			a.call(a.w.db)
		case n < 7:
			a.transact(a.w.db)
		case n < 8:
			a.ping(a.w.db.PingContext)
		default:
			a.lease()
		}
	}
}

// call makes one call, or prepares a statement and makes some.
func (a *actor) call(q querier) {
	if a.dice.IntN(6) == 0 {
		a.prepare(q)
	} else {
		a.query(q)
	}
}

// Times that contexts end after. Only a server that is quiet answers in any time.
const (
	patience  = 30 * time.Second
	shortTime = 500 * time.Millisecond
)

// A bound is the context of a call.
type bound struct {
	context.Context
	cancel context.CancelFunc
	limit  time.Duration
}

// bound returns a context for a call, sometimes one that ends before or amid it.
func (a *actor) bound() bound {
	b := bound{limit: shortTime}
	if a.w.quiet() {
		b.limit = patience
	}
	kind := a.dice.IntN(40)
	switch {
	case kind < 3:
		b.limit = between(a.dice, 0, 3*time.Millisecond)
	case kind < 5:
		b.limit = 30 * time.Millisecond
	}
	b.Context, b.cancel = context.WithTimeout(context.Background(), b.limit)
	if kind == 5 {
		b.limit = 0
		b.cancel()
	}
	return b
}

// ended reports whether a context of the call has ended before its time.
func (a *actor) ended(b bound) bool {
	return b.Err() != nil && b.limit != patience || a.outer != nil && a.outer.Err() != nil
}

// settle compares the result of a call with what the server knows of it, and returns that.
func (a *actor) settle(k token, b bound, r result) entry {
	a.w.calls.Add(1)
	a.w.trace.add("%s: %d rows, count %d, %v", k, len(r.rows), r.count, r.err)
	e := a.w.ledger.take(k)
	r.patient = r.patient && !a.ended(b)
	if wrong := e.audit(k, r); wrong != "" {
		a.w.fail("%s", wrong)
		return e
	}
	a.spent = a.spent || !r.patient && pgnotify.IsDisconnect(r.err)
	switch {
	case r.patient && b.limit == patience && errors.Is(r.err, context.DeadlineExceeded):
		a.w.fail("%s has returned only after %v: %v", k, patience, r.err)
	case r.patient && e.answered && isCancelled(r.err): // the loss of a session tells of its last error
		a.w.fail("%s got another call's cancel request: %v", k, r.err)
	case r.patient && a.w.quiet() && !e.answered && r.err != nil && !r.mayFail && !a.spent && !isRefused(r.err, "42601"):
		a.w.fail("%s failed before the server knew it: %v", k, r.err)
	case r.err == nil && r.whole:
		a.w.results.Add(1)
		if heard := a.w.ear.heard(e.session.pid); !e.session.odd.Load() && heard < e.owed {
			a.w.fail("%s has returned, and of session %d's events only %d of %d were handled", k, e.session.pid, heard, e.owed)
		}
	}
	return e
}

// isCancelled reports whether an error is what the server says after a cancel request.
func isCancelled(err error) bool {
	return isRefused(err, "57014") && strings.Contains(err.Error(), "user request")
}

// isRefused reports whether an error is the server's, with the given code.
func isRefused(err error, code pqerror.Code) bool {
	var refused *pq.Error
	return errors.As(err, &refused) && refused.Code == code
}
