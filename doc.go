// Package pgnotify is a [database/sql] driver for PostgreSQL that delivers
// notices, and the notifications of LISTEN and NOTIFY, whether a session is idle
// or busy. [github.com/lib/pq] runs the queries and converts the types; pgnotify
// owns the connection underneath and sees every message.
//
// # Opening
//
// Import the package and open a pool with any DSN that lib/pq accepts:
//
//	db, err := sql.Open("pgnotify", "postgres://user:password@db.example/app?sslmode=verify-full&sslrootcert=system")
//
// Settings that do not fit in a DSN, such as a [tls.Config] or a function to
// call with each notice, are fields of [Config]:
//
//	config, err := pgnotify.ParseConfig(dsn)
//	config.OnNotice = func(conn *pgnotify.Conn, n *pgnotify.Notice) { slog.Info("notice", "notice", n) }
//	connector, err := pgnotify.NewConnector(config)
//	db := sql.OpenDB(connector)
//
// sslmode defaults to prefer, as in libpq: TLS if the server offers it. Only
// verify-full verifies the server's identity. [ParseConfig] lists the parameters
// that pgnotify adds to those of lib/pq.
//
// # A session and its handle
//
// Notices and notifications belong to one session. Take a session from the pool,
// and then its handle, a *[Conn]:
//
//	conn, err := db.Conn(ctx)
//	if err != nil {
//		return err
//	}
//	defer conn.Close()
//	pc, err := pgnotify.FromConn(conn)
//
// The handle works until conn is closed; after that its methods return
// [ErrReleased]. Its own methods are safe for concurrent use, even while conn
// runs statements. Closing conn removes the session's handlers and returns the
// session to the pool. A session that has listened is closed instead, so the
// next borrower never receives what it did not ask for.
//
// # Notices
//
// [NoticeConn] registers a function that is called with each notice of the
// session:
//
//	remove := pc.AddNoticeHandler(func(n *pgnotify.Notice) { log.Println(n) })
//	defer remove()
//
// When a statement returns, its notices have been handled. Config.OnNotice
// receives the notices of all sessions, including those of the start-up.
//
// # Notifications
//
// [NotificationConn] listens, and delivers notifications to handlers, one at a
// time, or through an iterator:
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
// [Timeout] and [StopAfter] end the loop without an error. Notifications that
// arrive between two waits are kept: at least 32,768 of them or 8 MiB of
// payload. Those beyond that are counted, and a *[GapError] takes their place in
// the sequence. [Notify] sends a notification through a pool, a session or a
// transaction.
//
// While a session runs a statement or a transaction, the server holds its
// notifications back and delivers them afterwards. A LISTEN or NOTIFY inside a
// transaction takes effect when the transaction commits.
//
// # The Listener
//
// A [Listener] has a session of its own, replaces it when it is lost, and serves
// any number of subscribers:
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
// A [Gap] marks each place in a subscriber's stream where notifications may be
// missing: after a reconnect, and where the subscriber's queue was full. A
// [SubscriptionConfig].CatchUp function is called in its place.
// [Subscription.Wake] is for workers that only need to be woken. The page
// docs/listener.md describes the states, the loss model, and the cost of NOTIFY.
//
// # Transactions
//
// [InTx] commits when its function returns nil, and rolls back when it returns
// an error or panics. [InSavepoint] does the same for part of a transaction; if
// that part fails, the transaction continues:
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
// The function's error is returned unchanged. If COMMIT fails with a
// *[DisconnectError] whose Sent is true, the transaction may have been
// committed.
//
// # Context and cancellation
//
// When the context of a request ends, pgnotify asks the server to cancel the
// statement, over a connection with the same TLS. The call returns once the
// statement has ended and the cancel request can no longer hit another one. The
// session stays usable; inside a transaction, after a rollback. [errors.Is]
// finds ctx.Err() in the error, and [errors.As] finds the server's *pq.Error
// with code 57014. If the statement does not end within Config.CancelTimeout,
// its session is closed. With a context that has already ended, nothing is sent
// except the ROLLBACK of its transaction.
//
// Ctrl-C works the same way through [os/signal.NotifyContext]: the statement
// ends, and the program may go on using the session.
//
// The context of BeginTx governs COMMIT, and those statements of the transaction
// that have no context of their own. When it ends, the transaction is rolled
// back. A statement that reaches its session before database/sql has asked for
// the rollback is not sent and fails with [sql.ErrTxDone].
//
// Code that does not hold a statement's context can end it through the session:
// [CancelConn] cancels what runs there, and whoever runs it gets 57014.
//
// Closing rows early does not run the query to its end for nothing. Outside a
// transaction, a SELECT, TABLE or VALUES with more than 1 MiB still to come is
// cancelled. Inside a transaction, where cancelling would fail the transaction,
// and for all other statements, the rest is read and discarded.
//
// # Prepared statements
//
// Each session keeps the prepared statements of its queries with arguments, 256
// by default, so a query is prepared once and then needs one round trip. A kept
// statement should mean what it would mean with lib/pq, which prepares it each
// time. So a session forgets its statements after any query that is not known to
// be harmless: SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES and TABLE are, those
// that begin and end transactions, LISTEN, COPY, TRUNCATE and a few others, and
// the SET of settings such as statement_timeout, application_name, work_mem and
// all with a dot in their name. CREATE, ALTER, DROP, GRANT, DO, CALL, EXPLAIN,
// SELECT INTO and any other SET are not, nor is set_config of any other setting.
// If such a query runs in a transaction, the session keeps nothing until the
// transaction ends, and queries cost what they cost with lib/pq.
//
// If other sessions share what may have been changed, those of the same pool
// forget their statements too, once the query has returned or its transaction
// has been committed. Frequent CALLs, or tables that are dropped and created for
// each request, so cost the whole pool its statements. The statements that the
// program prepares itself are not affected; they are as with lib/pq.
//
// A query with a literal that may stand for the present time, such as 'now' or
// 'today', or that has an escape, as in E'\n', is not kept. now() outside a
// literal is harmless.
//
// These changes are not seen, and kept statements may then return what lib/pq's
// would not:
//
//   - Those made by other programs and other pools. Some surface as an error.
//     pgnotify then prepares and runs the statement again, and nobody notices. In
//     a transaction it cannot, because the transaction has failed: the statement
//     returns the error (0A000, 26000, 42883) and works again after the rollback.
//     Others cause no error. If the type of a column has changed, arguments are
//     still read as the old type where the server can convert it: 007 becomes 7
//     for a column that was an integer and is now text. An overload of a
//     function, or a table earlier in search_path, is not found. A literal of an
//     enum whose values were renamed stands for the value it stood for before.
//   - Those made inside functions and triggers, such as a SELECT of a function
//     that creates tables or calls set_config.
//   - Settings that an IMMUTABLE function reads although it must not.
//
// After a migration by another program, replace the sessions: with
// [database/sql.DB.SetConnMaxLifetime] they are replaced after that time; with
// SetMaxIdleConns(0) idle ones are closed at once, and others when they are
// returned to the pool. Set it back when those that were in use have been
// returned. DEALLOCATE ALL makes one session forget its statements.
//
// From the sixth execution on, the server may choose a plan for a kept statement
// that does not depend on the arguments, and stays with it. Such a plan can be
// many times slower if the data is skewed or a table has many partitions, all of
// which it may lock. Put plan_cache_mode=force_custom_plan in the DSN, which
// passes it on to the server, to have each execution planned for its arguments,
// or statement_cache_size=0 to keep nothing.
//
// A call outside a transaction is one transaction on the server, so a pooler in
// transaction mode never runs another client's statement in its place, whatever
// the settings. If the pooler does not support prepared statements, as PgBouncer
// does since 1.21, set Config.StatementCacheSize to -1 or put
// statement_cache_size=0 in the DSN, and do not use Prepare: the server would
// refuse statements (26000). The page docs/poolers.md says what to set behind
// which pooler.
//
// # Disconnection
//
// A request on a lost session fails with a *[DisconnectError]. Its Reason says
// why the session was lost, its Err is the error of the server or the system,
// and Sent says whether part of the statement was sent. If so, the outcome is
// unknown, and the program must find it out or try again. If nothing was sent
// and no transaction was open, database/sql retries on another session by
// itself. pgnotify sends no statement twice.
//
// The pool replaces a lost session by itself. A program that must know at once,
// even while the session is idle, has Config.OnDisconnect for all sessions and
// [DisconnectConn] for one. The latter offers a channel, and a context for work
// that may continue only while the session, and any lock it holds, lives:
//
//	watched, stop := pc.WatchContext(ctx)
//	defer stop()
//	err := work(watched)
//	err = context.Cause(watched) // a *DisconnectError, if the session was lost
//
// "At once" applies to Linux, macOS and the BSDs. Elsewhere it applies to
// sessions that listen, wait, or were asked for such a channel or context; other
// sessions see their loss when they are next used. A network that falls silent
// is detected by keepalives, after two and a half minutes by default, and by
// Config.TCPUserTimeout. The page docs/disconnection.md has the details in
// tables.
//
// # sql.Conn.Raw
//
// [FromConn] is a shorthand for [sql.Conn.Raw], the standard library's access to
// a session. Raw passes a *[Conn], which implements the small interfaces
// [NoticeConn], [NotificationConn], [DisconnectConn], [CancelConn] and
// [SessionConn]:
//
//	err := conn.Raw(func(driverConn any) error {
//		return driverConn.(pgnotify.NotificationConn).Listen(ctx, "jobs")
//	})
//
// Raw holds the lock of conn until the function returns, so do not wait inside
// it. Under a wrapper, such as one for tracing, driverConn is the wrapper;
// [Unwrap] finds the *Conn beneath it.
//
// # Platforms
//
// The package is pure Go and runs on every system with TCP or Unix sockets.
// Config's TCPUserTimeout has an effect on Linux only.
// On Windows and Plan 9 the loss of an idle session is seen at its next use, unless
// the session listens or is watched ([DisconnectConn]), and the permissions of key
// files are not checked.
//
// # Debugging
//
// Config.Logger, or [slog.Default] if it is nil, records what cannot be returned
// to a caller: panics in handlers, and dropped notices and notifications.
// ListenerConfig.Logger records what happens to a [Listener]. Statements and
// passwords are never logged. [Conn.PID] is the session's pid in
// pg_stat_activity, where application_name is the program's name unless the DSN
// sets another.
//
// # Limits
//
// pgnotify shares lib/pq's limits: no SCRAM with channel binding, no pipelining,
// no replication, and no COPY TO STDOUT, which is an error. Passphrases
// of keys, certificate revocation lists and GSSAPI encryption are not supported.
// Channel names have at most [MaxChannelName] bytes and payloads at most
// [MaxPayload], the server's limits. Behind a pooler that shares server sessions
// between transactions, such as PgBouncer in transaction mode, LISTEN does not
// work with any driver; a [Listener] finds that out and says so. Server
// errors above 30,000 bytes are shortened, because lib/pq cannot read them. In a
// database with the encoding SQL_ASCII, the server refuses to send text that is
// not valid UTF-8, payloads included, and ends the session (22021); after SET
// client_encoding = 'SQL_ASCII' such text passes through unchanged.
package pgnotify
