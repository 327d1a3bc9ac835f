// Package fdwatch tells when the other end of a socket is gone, without reading
// the socket and at no cost to those who do read it.
//
// One poller serves all sockets of the process: an epoll descriptor on Linux, a
// kqueue on macOS and the BSDs. It exists while something is watched, and a tenth
// of a second longer. Of a socket it asks only for the end of what can be read and
// for errors (EPOLLRDHUP, EV_EOF), edge-triggered, so that ordinary traffic wakes
// nobody. The epoll descriptor is itself waited on by Go's poller, so no thread is
// blocked. A kqueue cannot be: Go asks for EVFILT_WRITE too, which a kqueue does not
// have as a descriptor; there one thread of the process sits in kevent.
//
// Descriptors are reached through RawConn.Control only. (File would duplicate the
// descriptor, and a RawConn.Read that waits would hold up those who read.)
//
// Readable is not dead: an event means "look", and a look means reading. See
// epoll(7), kqueue(2).
package fdwatch
