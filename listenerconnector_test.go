package pgnotify_test

import (
	"context"
	"database/sql/driver"
	"runtime"
	"sync"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A faultyConnector does once what no connector should do.
type faultyConnector struct {
	driver.Connector
	once  sync.Once
	fault func()
}

func (c *faultyConnector) Connect(ctx context.Context) (conn driver.Conn, err error) {
	good := true
	c.once.Do(func() { good = false; c.fault() })
	if !good {
		return nil, nil
	}
	return c.Connector.Connect(ctx)
}

// A connector that returns nothing, panics, or ends its goroutine has failed once.
func TestListenerSurvivesItsConnector(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(){
		"nothing": func() {},
		"panic":   func() { panic("on purpose") },
		"Goexit":  func() { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, events := listenBy(t, &faultyConnector{Connector: connector(t, dsn(t)), fault: fault}, quickRetries)
			subscribe(t, l, uniqueName("a"))
			if e := events.await(t, pgnotify.ListenerReconnecting, 1); e.Err == nil {
				t.Errorf("%v", e)
			}
		})
	}
}

func TestNewListenerRefusesNil(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]driver.Connector{"nil": nil, "a nil Connector": (*pgnotify.Connector)(nil)} {
		if _, err := pgnotify.NewListener(c, nil); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
