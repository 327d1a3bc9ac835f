package pgnotify

// Waiting returns how many contexts of WatchContext the session has to cancel.
func (c *Conn) Waiting() int {
	c.s.leaseMu.Lock()
	defer c.s.leaseMu.Unlock()
	if c.s.ends == nil {
		return 0
	}
	return len(c.s.ends.cancels)
}

// Watched reports whether the session's socket is with the poller.
func (c *Conn) Watched() bool { return c.s.watch.Load() != nil }
