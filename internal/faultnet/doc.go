// Package faultnet gives a test its own network, which can fall silent: packets are
// lost, and nobody is told. It is for tests only, and for Linux.
//
//	link := faultnet.Start(t, "tcp", "127.0.0.1:5432")
//	config.DialContext = link.DialContext
//	...
//	link.Cut()
//
// A [Link] is two network namespaces and a cable between them. The client's sockets are
// made in the near namespace; a relay in the far one forwards to the server what
// arrives over the cable. The cable is a goroutine between two TUN devices. A packet
// that it does not pass on is lost as in any network, and the system's own TCP finds
// out by its own timers.
//
// The namespaces have no name and end with their last socket, so the machine's network
// is not touched, and a test that is killed leaves nothing behind. faultnet needs root,
// for CAP_SYS_ADMIN and CAP_NET_ADMIN, and the kernel's TUN driver.
package faultnet
