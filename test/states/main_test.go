// Package states_test plays random conversations between database/sql, over pgnotify,
// and a server that answers with random messages, each of them valid, in any order.
// Statements carry tokens, and so do their answers, so that an answer that belongs to
// another statement is found out at once.
//
//	states_test.go    the worlds that are played, and for how long
//	world_test.go     a world: a server, a pool, actors, and what must hold between them
//	actor_test.go     what programs do; query_test.go, tx_test.go, lease_test.go,
//	                  listener_test.go the parts of it
//	request_test.go   the statements that actors use and the server understands
//	server_test.go    the server; session_test.go and extended_test.go its sessions
//	send_test.go      how they send answers; answer_test.go what these are
//	mischief_test.go  what goes wrong with answers
//	ledger_test.go    what was asked and answered, and whether that fits together
//	ear_test.go       the same for notices and notifications
//	tap_test.go       a connection that counts what leaves
//	watch_test.go     finds what hangs; memory_test.go what grows
//	trace_test.go     what happened last
package states_test

import (
	"flag"
	"log"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	playTime  = flag.Duration("states", 2*time.Second, "how long TestStates plays; it plays at least one world")
	firstSeed = flag.Uint64("states.seed", 0, "what the choices of the first world depend on, each other world has the next one; 0: a new one")
)

// TestMain fails when goroutines are left behind.
func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if err := goleak.Find(); err != nil {
		log.Print(err)
		code = 1
	}
	os.Exit(code)
}
