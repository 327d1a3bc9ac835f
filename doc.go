// Package pgnotify is a PostgreSQL driver for [database/sql] whose sessions can
// hear: notices, and the notifications of LISTEN and NOTIFY, while they are idle
// and while they are busy. [github.com/lib/pq] does the queries and the types;
// pgnotify owns the connection underneath it and sees every message.
//
// # Opening
//
// Import the package and open a pool, with any DSN that lib/pq takes:
//
//	db, err := sql.Open("pgnotify", "postgres://user:password@db.example/app?sslmode=verify-full&sslrootcert=system")
//
// Settings that do not fit into a DSN, such as a [tls.Config] or a function that
// is called with each notice, are fields of [Config]:
//
//	config, err := pgnotify.ParseConfig(dsn)
//	config.OnNotice = func(conn *pgnotify.Conn, n *pgnotify.Notice) { slog.Info("notice", "notice", n) }
//	connector, err := pgnotify.NewConnector(config)
//	db := sql.OpenDB(connector)
//
// sslmode defaults to prefer, as in libpq: TLS if the server offers it. Only
// verify-full makes sure who the server is. [ParseConfig] lists the parameters
// that lib/pq does not have.
//
// # A session and its handle
//
// What is heard belongs to one session, so take one out of the pool, and then
// its handle, a *[Conn]:
//
//	conn, err := db.Conn(ctx)
//	if err != nil {
//		return err
//	}
//	defer conn.Close()
//	pc, err := pgnotify.FromConn(conn)
//
// The handle works until conn is closed; then its methods return [ErrReleased].
// Its methods may be called by several goroutines at a time, also while conn
// runs statements. Closing conn returns the session to the pool without its
// handlers. One that has listened is closed instead, so that the next borrower
// never hears what it did not ask for.
//
// # Notices
//
// [NoticeConn] has a function called with each notice of the session:
//
//	remove := pc.AddNoticeHandler(func(n *pgnotify.Notice) { log.Println(n) })
//	defer remove()
//
// When a statement returns, its notices have been handled. Config.OnNotice sees
// those of all sessions, and those of the start-up too.
//
// # Notifications
//
// [NotificationConn] listens, and hands out what arrives, by handlers, one at a
// time, or as an iteration:
//
//	err := pc.Listen(ctx, "jobs")
//	for n, err := range pc.Notifications(ctx, pgnotify.Timeout(time.Minute)) {
//		if err != nil {
//			return err
//		}
//		_, err := conn.ExecContext(ctx, "DELETE FROM jobs WHERE id = $1", n.Payload)
//		...
//	}
//
// [Timeout] and [StopAfter] end the loop quietly. What arrives between two waits
// is kept, at least 32,768 notifications or 8 MiB of payload; what comes beyond
// is counted, and a *[GapError] stands in its place in the sequence. [Notify]
// sends, through a pool, a session, or a transaction.
//
// The server tells nothing to a session that is within a transaction or a
// statement; it does so afterwards. A LISTEN or a NOTIFY within a transaction
// takes effect with its commit.
//
// # The Listener
//
// A [Listener] is a session of its own that reconnects, and serves any number of
// subscribers:
//
//	l, err := pgnotify.NewListener(connector, nil)
//	sub, err := l.Subscribe(ctx, "orders", "prices")
//	var gap *pgnotify.GapError
//	for n, err := range sub.All(ctx) {
//		if errors.As(err, &gap) {
//			... // look at the tables again
//		}
//		...
//	}
//
// A [Gap] stands in a subscriber's stream wherever something may be missing: after
// a reconnect, and where the subscriber's queue was full. With
// [SubscriptionConfig].CatchUp, a function is called in its place. [Subscription.Wake]
// is for workers that only need to be woken. The page docs/listener.md has the
// states, the loss model, and what NOTIFY costs.
//
// # Transactions
//
// [InTx] commits when its function returns nil, and rolls back when it returns an
// error or panics. [InSavepoint] does the same for a part of a transaction, which
// goes on when that part fails:
//
//	err := pgnotify.InTx(ctx, db, nil, func(tx *sql.Tx) error {
//		if err := move(ctx, tx, 30, "ann", "bob"); err != nil {
//			return err
//		}
//		err := pgnotify.InSavepoint(ctx, tx, func() error { return book(ctx, tx, "bonus") })
//		if err != nil {
//			log.Println("without the bonus:", err)
//		}
//		return nil
//	})
//
// The function's error comes out as it is. Where COMMIT fails with a
// *[DisconnectError] that says Sent, the transaction may have been committed.
//
// # Context and cancellation
//
// When the context of a request ends, the server is asked to cancel the
// statement, over a connection with the same TLS. The call returns when the
// statement has ended and the cancel request can hit no other. The session
// stays usable, within a transaction after a rollback. The error is ctx.Err()
// for [errors.Is], and has the server's *pq.Error with the code 57014 for
// [errors.As]. A statement that does not end within Config.CancelTimeout costs
// its session. A context that has ended already sends nothing, but for the
// ROLLBACK of its transaction.
//
// Ctrl-C is a context too, that of [os/signal.NotifyContext]: it ends the
// statement, and the program may go on with the session.
//
// The context of BeginTx holds for COMMIT, and for statements of the transaction
// that have none of their own. When it ends, the transaction is rolled back; what
// comes on its session before that, and may write, is not sent and gets
// [sql.ErrTxDone].
//
// Who has no hold of a statement's context can end it by the session:
// [CancelConn] cancels what runs there, and whoever runs it gets 57014.
//
// Rows that are closed early do not have their query run to its end for nothing:
// outside a transaction, a SELECT, TABLE or VALUES that has more than 1 MiB to come
// is cancelled. In a transaction, where that would be an error, and of any other
// statement, all is read.
//
// # Prepared statements
//
// A session keeps the statements of its queries with arguments, 256 of them by
// default, so that each is prepared once and then needs one round trip. It forgets them
// when it changes itself what they are about: tables and functions, its search_path, its
// time zone and the like, or when it runs DEALLOCATE or DISCARD ALL. Up to the end of a
// transaction that does so it keeps none, and a query costs what it costs with lib/pq.
//
// What another session changes, or a function, shows by an error, and the statement is
// prepared and run again, which nobody notices; except in a transaction: there the error
// is the statement's (0A000, 26000, 42883), because the transaction has failed, and it
// works after the rollback. One thing no error tells of: when another session changes
// the type of a column, the arguments of a statement that is kept are read as of the old
// type, if the server can convert that. 007 for a column that was an integer and is a
// text now becomes 7; a time with a zone loses that where timestamp was made timestamptz;
// and where real was made double precision, digits are lost. After such a change replace
// the sessions.
//
// A pooler that shares the server's sessions between transactions has to know prepared
// statements, as PgBouncer does since 1.21; for others set Config.StatementCacheSize to
// -1, or statement_cache_size=0, or binary_parameters=yes. After some executions the
// server may choose a plan that does not depend on the arguments: see its
// plan_cache_mode.
//
// # Disconnection
//
// A request on a session that is lost fails with a *[DisconnectError]: its Reason
// says why, its Err is what the server or the system said, and Sent says whether
// a part of the statement had been sent. Then its outcome is unknown, and it is
// for the program to find out, or to try again. If nothing was sent and no
// transaction was open, database/sql takes another session by itself. No
// statement is sent twice.
//
// The pool replaces a lost session by itself. For those who must know at once,
// idle or not, Config.OnDisconnect is told of all sessions, and [DisconnectConn]
// tells of one: by a channel, or by a context for what may go on only as long as
// the session lives, and its lock with it:
//
//	watched, stop := pc.WatchContext(ctx)
//	defer stop()
//	err := work(watched)
//	err = context.Cause(watched) // a *DisconnectError, if the session was lost
//
// "At once" is on Linux, macOS and the BSDs. Elsewhere it holds for sessions that
// listen, wait, or were asked for such a channel or context; others see their loss
// when they are used next. A network that falls silent is found by keepalives,
// after two and a half minutes by default, and by Config.TCPUserTimeout. The page
// docs/disconnection.md has tables of all this.
//
// # sql.Conn.Raw
//
// [FromConn] is a shorthand. The standard library's door to a session is
// [sql.Conn.Raw], which passes a *[Conn]. It implements the small interfaces
// [NoticeConn], [NotificationConn], [DisconnectConn], [CancelConn] and [SessionConn]:
//
//	err := conn.Raw(func(driverConn any) error {
//		return driverConn.(pgnotify.NotificationConn).Listen(ctx, "jobs")
//	})
//
// Raw holds the lock of conn until the function returns: do not wait in it. Under
// a wrapper, such as one for tracing, driverConn is the wrapper; [Unwrap] looks
// under it.
//
// # Platforms
//
// The package is pure Go, for all systems with TCP or unix sockets. Config's
// TCPUserTimeout has an effect on Linux only.
//
// # Debugging
//
// Config.Logger, or else [slog.Default], gets what has no other place to go: the
// panics of handlers, and notices that were dropped. ListenerConfig.Logger gets what
// happens to a [Listener]. No statement and no
// password is logged. [Conn.PID] is the session's pid in pg_stat_activity, and
// application_name there is the program's name if the DSN does not say
// otherwise.
//
// # Limits
//
// What lib/pq cannot do, pgnotify cannot: SCRAM with channel binding,
// pipelining, replication, COPY TO STDOUT (which costs the session).
// Passphrases of keys, certificate revocation lists and GSSAPI encryption are
// not supported. Channel names have at most [MaxChannelName] bytes and payloads
// [MaxPayload], as the server has it. Behind a pooler that shares server
// sessions between transactions, such as PgBouncer in transaction mode, LISTEN
// does not work, with any driver; [ListenerConfig].DeliveryProbe finds out. Server errors above 30,000 bytes are
// shortened, because lib/pq cannot read them. In a database with the encoding
// SQL_ASCII, the server refuses to send text that is not valid UTF-8, payloads
// included, and ends the session (22021); after SET client_encoding = 'SQL_ASCII'
// it passes through as it is.
package pgnotify
