package main

const generalHelp = `pgnotify listens to PostgreSQL's notifications, sends them, and watches a server.

  pgnotify listen [flags] CHANNEL...           print notifications as they come
  pgnotify notify [flags] CHANNEL [PAYLOAD|-]  send a notification
  pgnotify watch  [flags]                      show whether the server answers
  pgnotify help   [COMMAND]                    describe a command and its flags
  pgnotify version                             print the version

-d names the server: a DSN, such as postgres://user@host/database or
"host=db.example user=me", or the name of a database. What it leaves open comes from
the PG* environment variables, the service file and ~/.pgpass. Keep a password there
rather than in -d, which other users of the machine can see. The default host is
localhost, over TCP. psql's -h, -p, -U, -w and -W are refused.

Flags may have one dash or two, and may follow the other arguments. Nothing after --
is a flag.

Exit status:
  0    it did what it was told to, or nobody reads its output any more
  1    it failed
  2    it was called in the wrong way, such as with a payload that is too long
  130  Ctrl-C
  143  SIGTERM
`

// serverFlags documents the flags that all commands have.
const serverFlags = `  -d, -dbname DSN  the server: a DSN or the name of a database
                   (default: the PG* environment variables)
`

// waitFlag documents a flag of the commands that keep a session.
const waitFlag = `  -wait            keep trying if there is no server at the start; after a later
                   loss the command always keeps trying
`

const listenHelp = `Usage: pgnotify listen [flags] CHANNEL...

Prints each notification on the channels as it arrives, one to a line:

  2026-03-01 12:00:00.250 jobs[4711]: the payload

The number is the process id of the sender's session. Characters that could upset a
terminal are printed as escapes, such as \n. Channel names are used as they are:
NOTIFY Jobs sends to jobs, not to "Jobs".

A lost session is replaced, at once or as soon as the server answers. Reconnects,
and each gap where notifications may be missing, are reported on standard error, or
with -json in sequence on standard output. After a loss, a gap begins when the last
heartbeat that the server answered was sent (one every 15 seconds) or, before the
first, when the session began, even if notifications were printed since.

Flags:
` + serverFlags + `  -json            print one JSON object to a line, for events too
  -raw             print only the payloads, unescaped, one to a line
  -count N         end after N notifications, at least one
  -timeout T       end after T, such as 30s or 5m; with -count that is a failure
` + waitFlag + `  -probe           with each new session, send a notification from a second one to
                   verify that notifications arrive, even if there seems to be no
                   pooler; through one in transaction mode they do not

With -json, each object has a "kind" and a "time". The other fields, by kind:

  notification  channel, payload, pid
  listening     channels: from here on notifications are received
  gap           cause (overflow, reconnect, listen lost), from, to, dropped, error
  connected     host, pid
  disconnected  host, pid, error
  reconnecting  attempt, delay_ms, error
  probe failed  host, pid, attempt, delay_ms, error: not known whether
                notifications arrive
`

const notifyHelp = `Usage: pgnotify notify [flags] CHANNEL [PAYLOAD|-]

Sends a notification. Without PAYLOAD the payload is empty; if PAYLOAD is -, it is
all of standard input without the last newline. It has at most 7999 bytes: more is
exit status 2 for an argument, and 1 for standard input. Exit status 0 means that
the server has committed it; nothing is printed.

Put -- before a payload that begins with a dash:

  pgnotify notify jobs -- -5

Flags:
` + serverFlags + `  -timeout T       give up after T, such as 10s (default: never)
`

const watchHelp = `Usage: pgnotify watch [flags]

Asks the server once a second for its health, over one session that is replaced
when it is lost. On a terminal it keeps one line up to date, with as much as fits;
elsewhere it prints a line each time:

  2026-03-01 12:00:00.250 127.0.0.1:5432 pid 4711 primary, up 1m3s,
  round trip 0.41 ms, heard 1s ago, queue 0.0%, reconnects 2

(on one line). "queue" is how full the server's notification queue is. The loss of
the session, and reconnecting, are reported on standard error, or with -json on
standard output.

Flags:
` + serverFlags + `  -interval T      time between two requests (default 1s)
  -json            print one JSON object to a line, for events too
  -count N         end after N answers; exit status 1 if the last one was bad
  -timeout T       end after T, such as 30s or 5m
` + waitFlag + `
With -json, each object has a "kind" and a "time". The other fields, by kind:

  health        host, pid, connected_since, last_heard, round_trip_ms,
                in_recovery, queue_usage (0 to 1), reconnects
  unhealthy     error: there is no session, or no answer
  connected     host, pid
  disconnected  host, pid, error
  reconnecting  attempt, delay_ms, error
  probe failed  host, pid, attempt, delay_ms, error: not known whether
                notifications arrive
`

const versionHelp = `Usage: pgnotify version

Prints the version of the program.
`
