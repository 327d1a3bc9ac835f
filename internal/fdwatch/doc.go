// Package fdwatch reports when the other end of a socket is gone, without reading the
// socket and at no cost to those who read it.
//
// One poller serves all sockets of the process: an epoll descriptor on Linux, a kqueue
// on macOS and the BSDs. It exists while something is watched, and a tenth of a second
// longer. It asks only for the end of a socket's input and for errors (EPOLLRDHUP,
// EV_EOF), edge-triggered, so ordinary traffic wakes nobody. Go's poller waits on the
// epoll descriptor, so no thread is blocked. It cannot wait on a kqueue: Go also asks
// for EVFILT_WRITE, which a kqueue descriptor does not support. There one thread of the
// process sits in kevent.
//
// Descriptors are reached through RawConn.Control only. (File would duplicate the
// descriptor, and a RawConn.Read that waits would hold up other readers.)
//
// Readable does not mean dead: an event means "look", and to look is to read. See
// epoll(7), kqueue(2).
package fdwatch
