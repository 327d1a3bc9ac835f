// Package pgfake is a PostgreSQL server that does what a test tells it to: it accepts
// sessions on the loopback interface and plays a script on each. It is for what a real
// server does not do, such as broken messages, lost replies, and silence.
//
//	s := pgfake.Start(t,
//		pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), pgfake.Send(broken), pgfake.Hang()},
//		pgfake.Script{pgfake.Greet(), pgfake.Serve()},
//	)
//	db, err := sql.Open("pgnotify", s.DSN())
//
// The first session gets the broken answer, all others work. The messages are
// those of
// https://www.postgresql.org/docs/current/protocol-message-formats.html.
package pgfake
