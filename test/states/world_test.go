package states_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
)

// A world is a server, a pool, and actors that use it. The seed decides what each of
// them does, and what the server answers to each call, but not who is first: a failure
// may need several runs with its seed.
type world struct {
	t      *testing.T
	seed   uint64
	server *server
	config *pgnotify.Config
	db     *sql.DB
	ledger *ledger
	ear    *ear
	trace  trace
	over   chan struct{} // closed when the server is to end

	mischief float64 // how often an answer goes wrong
	noise    float64 // how often one has messages that may come at any time
	holds    float64 // how often one waits for a cancel request
	piece    int     // bytes that one read returns; 0: as many as there are

	failures atomic.Int64
	tally
}

// A tally counts what happened.
type tally struct {
	calls, results, connections atomic.Int64
}

// callsOfAnActor is how many calls, or small groups of them, an actor makes.
const callsOfAnActor = 40

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, seed: seed, ledger: newLedger(), over: make(chan struct{})}
	w.trace.began = time.Now()
	w.ear = &ear{w: w, last: make(map[uint32]int)}
	dice := w.diceFor(1 << 56)
	w.mischief = []float64{0, 0, 0.02, 0.1, 0.4}[dice.IntN(5)]
	w.noise = []float64{0, 0.1, 0.6}[dice.IntN(3)]
	w.holds = []float64{0, 0, 0.01, 0.1}[dice.IntN(4)]
	w.piece = []int{0, 0, 0, 1, 20}[dice.IntN(5)]
	w.server = newServer(t, w)
	w.config = w.newConfig(dice)
	c, err := pgnotify.NewConnector(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.db = sql.OpenDB(c)
	w.db.SetMaxOpenConns(1 + dice.IntN(3))
	w.trace.add("seed %d: mischief %v, noise %v, holds %v; cache %d, binary %v, pieces of %d, at most %d sessions", seed, w.mischief, w.noise,
		w.holds, w.config.StatementCacheSize, w.config.BinaryParameters, w.piece, w.db.Stats().MaxOpenConnections)
	return w
}

func (w *world) newConfig(dice *rand.Rand) *pgnotify.Config {
	config, err := pgnotify.ParseConfig(w.server.DSN())
	if err != nil {
		w.t.Fatal(err)
	}
	config.StatementCacheSize = []int{0, 0, 2, -1}[dice.IntN(4)]
	config.BinaryParameters = dice.IntN(5) == 0
	if config.CancelTimeout = 10 * time.Second; !w.quiet() { // which is a while for a busy machine
		config.CancelTimeout = shortTime
	}
	config.OnNotice, config.OnNotification = w.ear.notice, w.ear.notification
	config.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	bare := dice.IntN(5) == 0
	var dials atomic.Uint64
	config.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.connections.Add(1)
		t := &tap{TCPConn: conn.(*net.TCPConn), ledger: w.ledger, most: w.piece, dice: w.diceFor(1<<57 + dials.Add(1))}
		if bare {
			return bareConn{t}, nil
		}
		return t, nil
	}
	return config
}

// quiet reports whether the server of the world does nothing wrong, and answers at once.
func (w *world) quiet() bool { return w.mischief == 0 && w.holds == 0 }

// diceFor returns a source of choices for one purpose.
func (w *world) diceFor(purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, purpose)) }

// fail reports what must not be. Once it has happened, the actors end: what comes after
// may follow from it.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	if n := w.failures.Add(1); n == 1 {
		w.t.Errorf("-states.seed=%d -states=0: %s\n%s", w.seed, fmt.Sprintf(format, args...), &w.trace)
	} else if n <= 4 {
		w.t.Errorf("and then: %s", fmt.Sprintf(format, args...))
	}
}

// play has the actors act, and the pool recover.
func (w *world) play() {
	defer close(w.over)
	dice := w.diceFor(1 << 58)
	var actors, meddler sync.WaitGroup
	acting, stop := context.WithCancel(context.Background())
	meddler.Go(func() { w.meddle(acting, w.diceFor(1<<59)) }) // ends with the context; joined below
	for i := range 1 + dice.IntN(4) {
		a := w.newActor(i)
		actors.Go(a.act) // ends after some calls; joined below
	}
	if dice.IntN(3) == 0 {
		actors.Go(func() { w.listen(w.diceFor(1 << 60)) }) // likewise
	}
	actors.Wait()
	stop()
	meddler.Wait()
	w.server.calmDown()
	if w.failures.Load() == 0 {
		w.recover()
	}
	defer w.watch("DB.Close", 0)()
	if err := w.db.Close(); err != nil {
		w.fail("DB.Close: %v", err)
	}
}

// meddle has things happen to idle sessions.
func (w *world) meddle(ctx context.Context, dice *rand.Rand) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(between(dice, 0, 5*time.Millisecond)):
			if dice.Float64() < w.noise+w.mischief {
				w.server.poke(dice)
			}
		}
	}
}

// recover expects the pool to work again, now that the server behaves: at most those
// calls fail that get a session that has misbehaved.
func (w *world) recover() {
	w.trace.add("the server is calm")
	a := w.newActor(999)
	for failed, succeeded := 0, 0; succeeded < 3; {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := w.db.PingContext(ctx)
		cancel()
		if err == nil {
			succeeded++
			a.query(w.db)
			continue
		}
		succeeded = 0
		if failed++; failed > w.db.Stats().MaxOpenConnections || errors.Is(err, context.DeadlineExceeded) {
			w.fail("the pool does not recover: %v", err)
			return
		}
	}
}

func (t *tally) add(more *tally) {
	t.calls.Add(more.calls.Load())
	t.results.Add(more.results.Load())
	t.connections.Add(more.connections.Load())
}
