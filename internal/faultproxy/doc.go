// Package faultproxy stands between a client and a real PostgreSQL and breaks a session
// at a chosen point, so that the statement has run but its answer is lost. It is for
// tests only.
//
//	p := faultproxy.Start(t, "tcp", "127.0.0.1:5432")
//	db, err := sql.Open("pgnotify", dsn+fmt.Sprintf(" host=%s port=%d", p.Host(), p.Port()))
//	...
//	p.Break(faultproxy.Fault{})
//	_, err = db.Exec("insert ...") // is executed; the client sees the end of the connection
//
// The proxy knows no protocol, so it can break TLS too. It sees only who speaks: what
// the client sends between two answers is a request, and what the server sends before
// the next request is its answer. PostgreSQL's clients and servers take turns in this
// way, except for notifications and notices; for these, see [Fault.Hold].
package faultproxy
