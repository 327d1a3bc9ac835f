package pgnotify_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// startStandby starts a streaming standby of a server of ours, which ends with the test.
func startStandby(t testing.TB, primary *pgserver.Server) *pgserver.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	standby, err := primary.StartStandby(ctx)
	if errors.Is(err, os.ErrNotExist) { // downloaded binaries are without it
		t.Skipf("needs pg_basebackup: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	return standby
}

// A way to reach several of our servers.
type way struct {
	name string
	dsn  func(servers ...*pgserver.Server) string
}

// ways returns TCP, TLS and unix sockets.
func ways(t testing.TB) []way {
	t.Helper()
	s := ours(t)
	list := func(format string, servers []*pgserver.Server, value func(*pgserver.Server) string) string {
		var values []string
		for _, s := range servers {
			values = append(values, value(s))
		}
		return fmt.Sprintf(format, strings.Join(values, ","))
	}
	port := func(s *pgserver.Server) string { return strconv.Itoa(s.Port()) }
	all := []way{
		{"tcp", func(servers ...*pgserver.Server) string {
			return s.dsn + list(" host=%s", servers, (*pgserver.Server).Host) + list(" port=%s", servers, port)
		}},
		{"tls", func(servers ...*pgserver.Server) string {
			return s.dsn + list(" host=%s", servers, func(*pgserver.Server) string { return "localhost" }) +
				list(" hostaddr=%s", servers, (*pgserver.Server).Host) + list(" port=%s", servers, port) +
				" sslmode=verify-full sslrootcert=" + s.ca
		}},
	}
	if s.SocketDir() != "" {
		all = append(all, way{"unix", func(servers ...*pgserver.Server) string {
			return s.dsn + list(" host=%s", servers, (*pgserver.Server).SocketDir) + list(" port=%s", servers, port)
		}})
	}
	return all
}

// C7: each mode takes the first server of the kind that it wants, in any order
// of a real primary and a real standby.
func TestTargetSessionAttrs(t *testing.T) {
	t.Parallel()
	primary, standby := ours(t).Server, startStandby(t, ours(t).Server)
	user, param := readOnlyUser(t, standby)
	const onPrimary, onStandby, first, none = "primary", "standby", "first", "none"
	for _, c := range []struct {
		attrs, user, want string
		alone             map[string]string // what becomes of one server alone
	}{
		{"", "", first, map[string]string{onPrimary: onPrimary, onStandby: onStandby}},
		{"any", "", first, map[string]string{onPrimary: onPrimary, onStandby: onStandby}},
		{"read-write", "", onPrimary, map[string]string{onPrimary: onPrimary, onStandby: "the session is read-only"}},
		{"read-only", "", onStandby, map[string]string{onPrimary: "the session is not read-only", onStandby: onStandby}},
		{"primary", "", onPrimary, map[string]string{onPrimary: onPrimary, onStandby: "the server is a standby"}},
		{"standby", "", onStandby, map[string]string{onPrimary: "the server is not a standby", onStandby: onStandby}},
		{"prefer-standby", "", onStandby, map[string]string{onPrimary: onPrimary, onStandby: onStandby}},

		// default_transaction_read_only=on, set for the role.
		{"any", user, first, map[string]string{onPrimary: onPrimary, onStandby: onStandby}},
		{"read-write", user, none, map[string]string{onPrimary: "the session is read-only", onStandby: "the session is read-only"}},
		{"read-only", user, first, map[string]string{onPrimary: onPrimary, onStandby: onStandby}},
		{"primary", user, onPrimary, map[string]string{onPrimary: onPrimary, onStandby: "the server is a standby"}},
		{"prefer-standby", user, onStandby, map[string]string{onPrimary: onPrimary, onStandby: onStandby}},

		// The same, asked for in the DSN.
		{"read-only", param, first, nil},
		{"read-write", param, none, nil},
	} {
		for _, way := range ways(t) {
			t.Run(fmt.Sprintf("%s/%s/%.20s", way.name, c.attrs, c.user), func(t *testing.T) {
				t.Parallel()
				attrs := c.user
				if c.attrs != "" {
					attrs += " target_session_attrs=" + c.attrs
				}
				for _, order := range [][]*pgserver.Server{{primary, standby}, {standby, primary}} {
					dsn := way.dsn(order...) + attrs
					if c.want == none {
						err := connectError(t, dsn)
						wantInOrder(t, err, "no host", strconv.Itoa(order[0].Port()), "read-only",
							strconv.Itoa(order[1].Port()), "read-only")
						continue
					}
					want := map[string]int{onPrimary: primary.Port(), onStandby: standby.Port(), first: order[0].Port()}[c.want]
					if got := serverPort(t, open(t, dsn)); got != want {
						t.Errorf("%v first: got port %d, want %d", order[0].Port(), got, want)
					}
				}
				for name, want := range c.alone {
					server := map[string]*pgserver.Server{onPrimary: primary, onStandby: standby}[name]
					dsn := way.dsn(server) + attrs
					if want == name {
						mustPing(t, open(t, dsn))
						continue
					}
					wantInOrder(t, connectError(t, dsn), strconv.Itoa(server.Port()), want, "target_session_attrs="+c.attrs)
				}
			})
		}
	}
}

// serverPort returns the port of the server that a pool has reached, over
// whatever way.
func serverPort(t testing.TB, db *sql.DB) int {
	t.Helper()
	return queryValue[int](t, db, "select current_setting('port')::int")
}

// readOnlyUser returns, as parts of a DSN, a user whose sessions are read-only by
// default, who is known on the standby too, and a parameter to the same effect.
func readOnlyUser(t testing.TB, standby *pgserver.Server) (user, parameter string) {
	t.Helper()
	db, name := open(t, ours(t).dsn), uniqueName("readonly")
	mustExec(t, db, "create role "+name+" login superuser password "+pq.QuoteLiteral(testPassword))
	mustExec(t, db, "alter role "+name+" set default_transaction_read_only = on")
	t.Cleanup(func() { mustExec(t, db, "drop role "+name) })
	copied := open(t, standby.DSN())
	until(t, "the role is on the standby", func() bool {
		return queryValue[int](t, copied, "select count(*) from pg_db_role_setting s join pg_roles r on r.oid = s.setrole where rolname = $1", name) == 1
	})
	return " user=" + name + " password=" + quote(testPassword), " default_transaction_read_only=on"
}

// reporting greets as servers since PostgreSQL 14 do.
func reporting(standby, readOnly string) []pgfake.Step {
	return []pgfake.Step{pgfake.Startup(), pgfake.Send(authentication(authOK, ""),
		pgfake.Parameter("in_hot_standby", standby), pgfake.Parameter("default_transaction_read_only", readOnly),
		pgfake.Frame('K', "\x00\x00\x12\x67key!"), pgfake.Ready('I'))}
}

// C7: prefer-standby goes twice over the list, and BeforeConnect with it.
func TestPreferStandbyInTwoPasses(t *testing.T) {
	t.Parallel()
	primary := pgfake.Start(t, append(reporting("off", "off"), pgfake.Serve()))
	closed := closedAddr(t)
	var dialled, asked collector[string]
	db := open(t, listDSN(t, closed, primary.Addr())+" target_session_attrs=prefer-standby", dialing(&dialled), func(c *pgnotify.Config) {
		c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
			asked.add(net.JoinHostPort(c.Host, fmt.Sprint(c.Port)))
			return nil
		}
	})
	mustPing(t, db)
	want := strings.Join([]string{closed, primary.Addr(), closed, primary.Addr()}, " ")
	if got := strings.Join(dialled.all(), " "); got != want {
		t.Errorf("dialled %s, want %s", got, want)
	}
	if got := strings.Join(asked.all(), " "); got != want {
		t.Errorf("BeforeConnect saw %s, want %s", got, want)
	}
	// Rejected in the first pass, there is no second.
	rejecting := pgfake.Start(t, refusing("28000"))
	if err := connectError(t, listDSN(t, rejecting.Addr(), primary.Addr())+" target_session_attrs=prefer-standby"); rejecting.Sessions() != 1 {
		t.Errorf("%v; %d connections", err, rejecting.Sessions())
	}
}

// C7: an unknown mode is an error that names it, also in a Config made by hand.
func TestUnknownTargetSessionAttrs(t *testing.T) {
	t.Parallel()
	config, err := pgnotify.ParseConfig("")
	if err != nil {
		t.Fatal(err)
	}
	config.TargetSessionAttrs = "nice"
	_, err = pgnotify.NewConnector(config)
	wantInOrder(t, err, "pgnotify: ", `"nice"`, "prefer-standby")
	config.TargetSessionAttrs = ""
	config.LoadBalanceHosts = "wild"
	_, err = pgnotify.NewConnector(config)
	wantInOrder(t, err, "pgnotify: ", `"wild"`, "random")
}

// C7: servers before PostgreSQL 14, and some poolers, do not tell: they are
// asked.
func TestTargetSessionAttrsAsked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ attrs, answer, want string }{
		{"read-write", "off", ""},
		{"read-write", "on", "the session is read-only"},
		{"read-only", "on", ""},
		{"read-only", "off", "the session is not read-only"},
		{"primary", "f", ""},
		{"primary", "t", "the server is a standby"},
		{"standby", "t", ""},
		{"standby", "f", "the server is not a standby"},
	} {
		t.Run(c.attrs+" "+c.answer, func(t *testing.T) {
			t.Parallel()
			const oidBool, oidText = "\x00\x00\x00\x10", "\x00\x00\x00\x19"
			columns := string(pgfake.Columns("answer"))
			if len(c.answer) == 1 {
				columns = strings.Replace(columns, oidText, oidBool, 1)
			}
			fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'),
				pgfake.Send([]byte(columns), pgfake.Row(c.answer), pgfake.Complete("SELECT 1"), pgfake.Ready('I')), pgfake.Serve()})
			dsn := fake.DSN() + " target_session_attrs=" + c.attrs
			if c.want == "" {
				mustPing(t, open(t, dsn))
				return
			}
			wantInOrder(t, connectError(t, dsn), fake.Addr(), c.want)
		})
	}
}

// C7: what goes wrong with the question is an error, and the next host is tried.
func TestTargetSessionAttrsAskedInVain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer pgfake.Step
		want   string
	}{
		"closed":      {pgfake.Send(), "closed the connection"},
		"reset":       {pgfake.Reset(), "reset"},
		"refused":     {pgfake.Send(pgfake.Error("ERROR", "58000", "cannot say"), pgfake.Ready('I')), "cannot say"},
		"no rows":     {pgfake.Send(pgfake.Columns("a"), pgfake.Complete("SELECT 0"), pgfake.Ready('I')), "SHOW transaction_read_only"},
		"two columns": {pgfake.Send(pgfake.Columns("a", "b"), pgfake.Row("on", "on"), pgfake.Complete("SELECT 1"), pgfake.Ready('I')), "2 columns"},
		"nonsense":    {pgfake.Send(pgfake.Frame('D', "")), "no place in the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Await('Q'), c.answer})
			err := connectError(t, first.DSN()+" target_session_attrs=read-write")
			wantInOrder(t, err, first.Addr(), c.want)
			second := pgfake.Start(t, append(reporting("off", "off"), pgfake.Serve()))
			mustPing(t, open(t, listDSN(t, first.Addr(), second.Addr())+" target_session_attrs=read-write"))
		})
	}
}

// C7: a server of the wrong kind is left politely, and is not asked again without
// TLS; the other addresses of its name are tried.
func TestServerOfTheWrongKind(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	goodbye := func(*pgfake.Session) error { close(left); return nil }
	standby := pgfake.Start(t, append(append(pgfake.Script{}, reporting("on", "off")...), pgfake.Await('X'), goodbye),
		append(reporting("off", "off"), pgfake.Serve()))
	place := net.JoinHostPort(names.Add("127.0.0.1", "127.0.0.2"), portOf(t, standby.Addr()))
	err := connectError(t, listDSN(t, place)+" target_session_attrs=primary")
	wantInOrder(t, err, "127.0.0.1", "the server is a standby", "127.0.0.2")
	recv(t, left)

	var dialled collector[string]
	err = connectError(t, ours(t).dsn+" sslmode=prefer target_session_attrs=standby", dialing(&dialled))
	if list := dialled.all(); len(list) != 1 {
		t.Errorf("%v; dialled %q", err, list)
	}
}
