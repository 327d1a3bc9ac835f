package main

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/pgnotify/pgnotify"
)

// A cache keeps values of a table in memory, those that were asked for. It forgets a
// value when a trigger sends its key, and everything when it may have missed a change.
//
// All methods are safe for concurrent use.
type cache struct {
	db   *sql.DB
	told func(format string, args ...any) // called with what is forgotten, and why
	sub  *pgnotify.Subscription
	done chan struct{} // closed when follow has ended

	mu     sync.Mutex          // guards the fields below
	values map[string]string   // nil when the subscription has ended
	reads  map[string]*reading // by key, the last reading that may still be kept
}

// A reading is a query for a value that is under way.
type reading struct{ key string }

// newCache returns a cache that lives until Close, or until the listener is closed.
// After that it keeps nothing, and get asks the table.
func newCache(ctx context.Context, db *sql.DB, l *pgnotify.Listener, told func(string, ...any)) (*cache, error) {
	c := &cache{
		db: db, told: told, done: make(chan struct{}),
		values: make(map[string]string), reads: make(map[string]*reading),
	}
	var err error
	c.sub, err = l.SubscribeConfig(ctx, pgnotify.SubscriptionConfig{
		Channels: []string{channel},
		CatchUp:  c.catchUp,
	})
	if err != nil {
		return nil, err
	}
	go c.follow() // ends with the subscription; joined by Close
	return c, nil
}

// get returns the value of a key, and whether the cache had it.
func (c *cache) get(ctx context.Context, key string) (value string, hit bool, err error) {
	value, hit, r := c.look(key)
	if hit {
		return value, true, nil
	}
	err = c.db.QueryRowContext(ctx, "SELECT value FROM pgnotify_cache WHERE key = $1", key).Scan(&value)
	c.keep(r, value, err)
	return value, false, err
}

// look returns what the cache has or, if it has nothing, a reading.
func (c *cache) look(key string) (value string, hit bool, r *reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if value, hit = c.values[key]; hit {
		return value, true, nil
	}
	r = &reading{key}
	if c.values != nil {
		c.reads[key] = r
	}
	return "", false, r
}

// keep keeps what was read, unless the value has changed since the query was sent: then
// nobody knows whether it is the old value or the new one.
func (c *cache) keep(r *reading, value string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reads[r.key] != r {
		return
	}
	delete(c.reads, r.key)
	if err == nil {
		c.values[r.key] = value
	}
}

// follow forgets what changes.
func (c *cache) follow() {
	defer close(c.done)
	for n, err := range c.sub.All(context.Background()) {
		if err != nil { // not a gap: catchUp is called in its place
			c.end()
			return
		}
		c.forget(n.Payload)
	}
}

// forget forgets a key.
func (c *cache) forget(key string) {
	c.mu.Lock()
	delete(c.values, key)
	delete(c.reads, key)
	c.mu.Unlock()
	c.told("%s has changed: forgotten", key)
}

// catchUp forgets everything. It is called at the start, and whenever changes may have
// been missed; newer notifications wait until it has returned.
func (c *cache) catchUp(_ context.Context, gap pgnotify.Gap) error {
	c.mu.Lock()
	n := len(c.values)
	clear(c.values)
	clear(c.reads)
	c.mu.Unlock()
	c.told("CatchUp: %v: %s forgotten", gap.Cause, count(n, "value"))
	return nil
}

// end makes the cache keep nothing from now on.
func (c *cache) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values = nil
	clear(c.reads)
}

// contents returns a copy of what the cache has.
func (c *cache) contents() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]string, len(c.values))
	for key, value := range c.values {
		all[key] = value
	}
	return all
}

// Close ends the subscription, and waits for follow.
func (c *cache) Close() error {
	c.sub.Close()
	<-c.done
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}
