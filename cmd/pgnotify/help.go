package main

const generalHelp = `pgnotify listens to PostgreSQL's notifications, sends them, and watches a server.

  pgnotify listen [flags] CHANNEL...           print notifications as they come
  pgnotify notify [flags] CHANNEL [PAYLOAD|-]  send a notification
  pgnotify watch  [flags]                      show whether the server answers
  pgnotify help   [COMMAND]                    tell the flags of a command
  pgnotify version                             tell the version

The server is what -d names: a DSN, such as postgres://user@host/database or
"host=db.example user=me", or the name of a database. For the rest, and without
-d, the PG* environment variables count, the service file and ~/.pgpass. A password
is better kept in one of these than in -d, which other users of the machine can
see. Without any host it is localhost, over TCP.

Flags may have one dash or two, and may stand behind the other arguments. What
follows -- is no flag.

Exit status:
  0    it did what it was told to, or nobody reads its output any more
  1    it failed
  2    it was called in the wrong way
  130  Ctrl-C
  143  SIGTERM
`

// serverFlags is help for the flags that all commands have.
const serverFlags = `  -d, -dbname DSN  the server: a DSN or the name of a database
                   (default: the PG* environment variables)
`

// waitFlag is help for the commands that keep a session.
const waitFlag = `  -wait            keep trying when there is no server at the start; one that is
                   lost later is waited for in any case
`

const listenHelp = `Usage: pgnotify listen [flags] CHANNEL...

Prints each notification of the channels as it comes, one a line:

  2026-03-01 12:00:00.250 jobs[4711]: the payload

with the process id of the sender's session. What could upset a terminal is
printed as an escape, such as \n. Channels are taken as they are: "Jobs" is not
what NOTIFY Jobs sends to, which is jobs.

A lost session is replaced, at once or as soon as the server answers. That, and
each gap where notifications may be missing, is told on standard error, or with
-json in its place on standard output.

Flags:
` + serverFlags + `  -json            one JSON object a line, for events too
  -raw             the payloads alone, as they are, one a line
  -count N         end after N notifications
  -timeout T       end after T, such as 30s or 5m; with -count that is a failure
` + waitFlag + `  -probe           with each new session, send a notification from a second one to
                   make sure that they arrive: they do not through a pooler in
                   transaction mode

With -json, each object has a "kind" and a "time". The fields beside them:

  notification  channel, payload, pid
  listening     channels: from here on notifications are heard
  gap           cause (overflow, reconnect, listen lost), from, to, dropped, error
  connected     host, pid
  disconnected  host, pid, error
  reconnecting  attempt, delay_ms, error
`

const notifyHelp = `Usage: pgnotify notify [flags] CHANNEL [PAYLOAD|-]

Sends a notification. Without PAYLOAD it is empty; where PAYLOAD is -, it is all
of standard input without its last newline, be it one line or many. It has 7999
bytes at the most. With status 0 the server has committed it; nothing is printed.

Put -- before a payload that begins with a dash:

  pgnotify notify jobs -- -5

Flags:
` + serverFlags + `  -timeout T       give up after T, such as 10s (default: never)
`

const watchHelp = `Usage: pgnotify watch [flags]

Asks the server once a second for its health, over one session that is replaced
when it is lost. On a terminal one line is kept up to date; elsewhere a line is
printed each time:

  2026-03-01 12:00:00.250 127.0.0.1:5432 pid 4711 primary, up 1m3s,
  round trip 0.41 ms, heard 1s ago, queue 0.0%, reconnects 2

(in one line). "queue" is how full the server's queue of notifications is. Losing
the session and getting another are told on standard error, or with -json on
standard output.

Flags:
` + serverFlags + `  -interval T      time between two questions (default 1s)
  -json            one JSON object a line, for events too
  -count N         end after N answers; status 1 if the last one was no good
  -timeout T       end after T, such as 30s or 5m
` + waitFlag + `
With -json, each object has a "kind" and a "time". The fields beside them:

  health        host, pid, connected_since, last_heard, round_trip_ms,
                in_recovery, queue_usage (0 to 1), reconnects
  unhealthy     error: there is no session, or no answer
  connected     host, pid
  disconnected  host, pid, error
  reconnecting  attempt, delay_ms, error
`

const versionHelp = `Usage: pgnotify version

Tells the version of the program.
`
