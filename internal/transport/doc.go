// Package transport opens the connections the protocol is spoken over: it looks
// names up, dials, sets the socket's options and speaks TLS.
//
// The order of events is up to the caller. [Endpoints] lists the servers of a
// connection string, [Dialer.Routes] the ways to one of them, and [Route.Connect] takes
// one way:
//
//	for _, e := range transport.Endpoints(&cfg) {
//		routes, err := dialer.Routes(ctx, e, policy)
//		for _, r := range routes {
//			conn, err := r.Connect(ctx)
//			...
//		}
//	}
//
// A route with Fallback set belongs to the same address as the route before it, and
// [Route.FallsBackFrom] says whether that one's failure calls for it.
//
// # Encryption
//
// A [Policy] is made from sslmode and the settings around it. Its results are those of
// libpq 17, with three differences. sslmode defaults to require, where libpq reports an
// error, if sslnegotiation=direct or a *tls.Config is given. Passphrases of keys,
// certificate revocation lists (including ~/.postgresql/root.crl) and GSSAPI encryption
// are not supported. And a certificate's Common Name is not trusted under a certificate
// authority that has name constraints.
//
// # Context
//
// Every function that takes a context ends when it does, in whichever phase,
// and its error then satisfies errors.Is(err, ctx.Err()). A failure leaves no
// socket and no goroutine behind; only Go's own resolver may take some seconds,
// in the background, to end a look-up whose caller has gone.
package transport
