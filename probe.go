package pgnotify

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// probe verifies that notifications sent by another session arrive over k. A pooler in
// transaction mode accepts LISTEN, but its notifications reach nobody.
func (l *Listener) probe(ctx context.Context, k *link) error {
	if !l.config.DeliveryProbe {
		return nil
	}
	arrived := l.expect(k, "pgnotify_probe_"+rand.Text())
	channel := pq.QuoteIdentifier(k.probe)
	if err := k.exec(ctx, "LISTEN "+channel, l.config.HeartbeatTimeout); err != nil {
		return err
	}
	if err := l.execElsewhere(ctx, "NOTIFY "+channel); err != nil {
		return fmt.Errorf("delivery probe: %w", err)
	}
	timer := time.NewTimer(l.config.HeartbeatTimeout)
	defer timer.Stop()
	select {
	case <-arrived:
		return nil
	case <-k.lost():
		return nil // k.why has the reason
	case <-ctx.Done():
		return ErrClosed
	case <-timer.C:
		return fmt.Errorf("%w: notifications do not arrive over this connection; a pooler must be in session mode", ErrNotSupported)
	}
}

// expect returns a channel that is closed when a notification arrives on the PostgreSQL
// channel of that name.
func (l *Listener) expect(k *link, name string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.probe, k.arrived = name, make(chan struct{})
	return k.arrived
}

// probedLocked looks for the probe among the notifications of a session that is not in
// use yet.
func (k *link) probedLocked(items []wire.Notification) {
	ours := func(n wire.Notification) bool { return n.Channel == k.probe }
	if k.arrived != nil && slices.ContainsFunc(items, ours) {
		close(k.arrived)
		k.arrived = nil
	}
}

// execElsewhere runs a statement in a session opened for it.
func (l *Listener) execElsewhere(ctx context.Context, statement string) error {
	ctx, stop := l.boundConnect(ctx)
	defer stop()
	driverConn, err := l.connectCaught(ctx)
	if err != nil {
		return err
	}
	sender := &link{driverConn: driverConn}
	defer sender.close()
	if sender.conn, err = Unwrap(driverConn); err != nil {
		return err
	}
	return sender.exec(ctx, statement, l.config.HeartbeatTimeout)
}
