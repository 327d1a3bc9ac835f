package awake_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/awake"
)

func TestWithTimeout(t *testing.T) {
	t.Parallel()
	reason := errors.New("too long")
	for _, cause := range []error{nil, reason} {
		ctx, cancel := awake.WithTimeout(t.Context(), 20*time.Millisecond, cause)
		child, stop := context.WithCancel(ctx)
		<-child.Done()
		if ctx.Err() != context.DeadlineExceeded {
			t.Errorf("Err: %v", ctx.Err())
		}
		if want := cause; !errors.Is(context.Cause(ctx), want) && want != nil || want == nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			t.Errorf("Cause: %v", context.Cause(ctx))
		}
		stop()
		cancel()
	}
	parent, end := context.WithCancel(t.Context())
	ctx, cancel := awake.WithTimeout(parent, time.Hour, nil)
	defer cancel()
	if ctx.Err() != nil {
		t.Errorf("Err before: %v", ctx.Err())
	}
	end()
	<-ctx.Done()
	if ctx.Err() != context.Canceled {
		t.Errorf("Err after the parent's end: %v", ctx.Err())
	}
}

func TestStopOfAfterSilence(t *testing.T) {
	t.Parallel()
	called := make(chan struct{}, 1)
	stop := awake.AfterSilence(time.Millisecond, nil, func() { called <- struct{}{} })
	<-called
	stop()
	stop()
}
