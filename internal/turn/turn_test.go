package turn_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgnotify/pgnotify/internal/turn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestTakeAndRelease(t *testing.T) {
	t.Parallel()
	var tn turn.Turn
	for range 3 {
		if err := tn.Take(testContext(t)); err != nil {
			t.Fatal(err)
		}
		if tn.TryTake() {
			t.Fatal("taken twice")
		}
		tn.Release()
		if !tn.TryTake() {
			t.Fatal("not free after Release")
		}
		tn.Release()
	}
}

// A free turn is taken also with a context that has ended: to look at that is
// the caller's.
func TestTakeDoesNotWaitForAFreeTurn(t *testing.T) {
	t.Parallel()
	var tn turn.Turn
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tn.Take(ctx); err != nil {
		t.Error(err)
	}
}

func TestTakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var tn turn.Turn
	tn.TryTake()
	ended, cancel := context.WithCancel(testContext(t))
	cancel()
	expiring, stop := context.WithTimeout(testContext(t), time.Millisecond)
	defer stop()
	for ctx, want := range map[context.Context]error{ended: context.Canceled, expiring: context.DeadlineExceeded} {
		if err := tn.Take(ctx); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	tn.Release()
	if !tn.TryTake() {
		t.Error("a Take that was given up has the turn")
	}
}

func TestHeldTurnIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	var tn turn.Turn
	tn.TryTake()
	tn.Hold()
	if err := tn.Take(context.Background()); !errors.Is(err, turn.ErrHeld) {
		t.Errorf("got %v, want ErrHeld", err)
	}
	if tn.TryTake() {
		t.Error("taken while held")
	}
	tn.Release()
	if err := tn.Take(context.Background()); err != nil {
		t.Error(err)
	}
}

// waiting starts n calls of Take, and returns when they are about to wait.
func waiting(t *testing.T, tn *turn.Turn, n int) <-chan error {
	ctx, errs := testContext(t), make(chan error, n)
	var begun sync.WaitGroup
	for range n {
		begun.Add(1)
		go func() {
			begun.Done()
			errs <- tn.Take(ctx)
		}()
	}
	begun.Wait()
	for range 100 {
		runtime.Gosched()
	}
	return errs
}

func TestHoldFailsThoseWhoWait(t *testing.T) {
	t.Parallel()
	var tn turn.Turn
	tn.TryTake()
	errs := waiting(t, &tn, 10)
	tn.Hold()
	for range 10 {
		if err := <-errs; !errors.Is(err, turn.ErrHeld) {
			t.Errorf("got %v, want ErrHeld", err)
		}
	}
}

func TestReleaseLetsOneAfterTheOtherTake(t *testing.T) {
	t.Parallel()
	var tn turn.Turn
	tn.TryTake()
	errs := waiting(t, &tn, 10)
	for range 10 {
		select {
		case err := <-errs:
			t.Fatalf("Take returned %v while the turn was taken", err)
		default:
		}
		tn.Release()
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

// Many take the turn in all ways; only one has it at a time, and nobody is
// forgotten.
func TestStress(t *testing.T) {
	t.Parallel()
	const goroutines, rounds = 16, 500
	var (
		tn                     turn.Turn
		owners                 atomic.Int32
		guarded                int // by the turn: the race detector would tell
		done                   sync.WaitGroup
		taken, held, cancelled atomic.Int64
	)
	ctx := testContext(t)
	for g := range goroutines {
		done.Go(func() {
			for i := range rounds {
				own, cancel := context.WithCancel(ctx)
				if (g+i)%5 == 0 {
					go cancel()
				}
				var err error
				if (g+i)%7 == 0 {
					if !tn.TryTake() {
						err = turn.ErrHeld
					}
				} else {
					err = tn.Take(own)
				}
				cancel()
				switch {
				case err == nil:
				case errors.Is(err, turn.ErrHeld):
					held.Add(1)
					continue
				case errors.Is(err, context.Canceled):
					cancelled.Add(1)
					continue
				default:
					t.Error(err)
					return
				}
				if owners.Add(1) != 1 {
					t.Error("two have the turn")
				}
				guarded++
				taken.Add(1)
				if i%3 == 0 {
					tn.Hold()
					runtime.Gosched()
					guarded++
					taken.Add(1)
				}
				owners.Add(-1)
				tn.Release()
			}
		})
	}
	done.Wait()
	if !tn.TryTake() {
		t.Error("the turn is not free")
	}
	if int64(guarded) != taken.Load() {
		t.Errorf("counted %d, want %d", guarded, taken.Load())
	}
	t.Logf("%d taken, %d held, %d cancelled", taken.Load(), held.Load(), cancelled.Load())
}
