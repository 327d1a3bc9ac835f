package pgnotify_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// good lets everybody in, and deaf says nothing.
var (
	good = pgfake.Script{pgfake.Greet(), pgfake.Serve()}
	deaf = pgfake.Script{pgfake.Drain()}
)

// refusing returns the script of a server that rejects everybody.
func refusing(code string) pgfake.Script {
	return pgfake.Script{pgfake.Startup(), pgfake.Send(pgfake.Error("FATAL", code, "go away"))}
}

// listDSN returns a DSN with a list of servers, each host:port.
func listDSN(t testing.TB, servers ...string) string {
	t.Helper()
	var hosts, ports []string
	for _, s := range servers {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			t.Fatal(err)
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	return fmt.Sprintf("host=%s port=%s user=fake dbname=fake sslmode=disable", strings.Join(hosts, ","), strings.Join(ports, ","))
}

// closedAddr returns a server that is not there.
func closedAddr(t testing.TB) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(closedPort(t)))
}

// portOf returns the port of host:port.
func portOf(t testing.TB, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// within sets connect_timeout to less than a DSN can say.
func within(d time.Duration) func(*pgnotify.Config) {
	return func(c *pgnotify.Config) { c.ConnectTimeout = d }
}

// dialing notes the addresses that are dialled.
func dialing(calls *collector[string]) func(*pgnotify.Config) {
	return func(c *pgnotify.Config) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			calls.add(address)
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
}

// mustPing fails the test unless a session can be had.
func mustPing(t testing.TB, db *sql.DB) {
	t.Helper()
	if err := db.PingContext(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// wantInOrder checks that the text of an error has all words, one after the
// other.
func wantInOrder(t testing.TB, err error, words ...string) {
	t.Helper()
	rest := err.Error()
	for _, word := range words {
		_, after, found := strings.Cut(rest, word)
		if !found {
			t.Errorf("no %q, or not in its place, in: %v", word, err)
			return
		}
		rest = after
	}
}

// C3: the second host after exactly one timeout of the first.
func TestSecondHostAfterOneTimeout(t *testing.T) {
	t.Parallel()
	for _, sslmode := range []string{"disable", "allow", "prefer"} {
		t.Run(sslmode, func(t *testing.T) {
			t.Parallel()
			first, second := pgfake.Start(t, deaf), pgfake.Start(t, good)
			db := open(t, listDSN(t, first.Addr(), second.Addr())+" connect_timeout=1 sslmode="+sslmode)
			begun := time.Now()
			mustPing(t, db)
			if took := time.Since(begun); took < time.Second || took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if first.Sessions() != 1 || second.Sessions() != 1 {
				t.Errorf("%d and %d connections", first.Sessions(), second.Sessions())
			}
		})
	}
}

// C3: each attempt has its own timeout, and the error lists them in order.
func TestAllHostsDead(t *testing.T) {
	t.Parallel()
	const timeout = 200 * time.Millisecond
	first, third, closed := pgfake.Start(t, deaf), pgfake.Start(t, deaf), closedAddr(t)
	begun := time.Now()
	err := connectError(t, listDSN(t, first.Addr(), closed, third.Addr()), within(timeout))
	if took := time.Since(begun); took < 2*timeout {
		t.Errorf("two timeouts took %v", took)
	}
	wantInOrder(t, err, "pgnotify: ", first.Addr(), "connect_timeout of 200ms", closed, "refused", third.Addr(), "connect_timeout of 200ms")
	if n := strings.Count(err.Error(), "\n"); n != 3 {
		t.Errorf("%d lines: %v", n+1, err)
	}
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
	if first.Sessions() != 1 || third.Sessions() != 1 {
		t.Errorf("%d and %d connections", first.Sessions(), third.Sessions())
	}
}

// C3: the context is one for all.
func TestAllHostsDeadUnderOneContext(t *testing.T) {
	t.Parallel()
	first, second := pgfake.Start(t, deaf), pgfake.Start(t, good)
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	_, err := connector(t, listDSN(t, first.Addr(), second.Addr()), within(time.Minute)).Connect(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "connect_timeout") {
		t.Errorf("got %v", err)
	}
	wantInOrder(t, err, first.Addr())
	if second.Sessions() != 0 {
		t.Error("the second host was tried after the end")
	}
}

// C4: with hostaddr no name is looked up, and TLS knows the host.
func TestHostaddrIsNotLookedUp(t *testing.T) {
	t.Parallel()
	s := ours(t)
	host := names.Add("127.0.0.9") // would lead nowhere
	dsn := fmt.Sprintf("%s host=%s hostaddr=%s", s.dsn, host, s.Host())
	if got := queryValue[string](t, open(t, dsn), "select host(inet_server_addr())"); got == "" {
		t.Error("not over TCP")
	}
	err := connectError(t, dsn+" sslmode=verify-full sslrootcert="+s.ca)
	if wrong, ok := asError[x509.HostnameError](err); !ok || wrong.Host != host {
		t.Errorf("TLS: %v", err)
	}
	if n := names.Asked(host); n != 0 {
		t.Errorf("%d questions about %s", n, host)
	}
	mustPing(t, open(t, s.dsn+" sslmode=verify-full host=localhost hostaddr="+s.Host()+" sslrootcert="+s.ca))
}

// C4: the host is what SNI names, also of the second host.
func TestHostIsKeptForTLS(t *testing.T) {
	t.Parallel()
	var asked collector[string]
	fake := pgfake.Start(t, pgfake.Script{pgfake.StartTLS(fakeTLS(t, &asked)), pgfake.Greet(), pgfake.Serve()})
	dsn := fmt.Sprintf("host=one.test,two.test hostaddr=127.0.0.1,127.0.0.1 port=%d,%s user=fake sslmode=require",
		closedPort(t), portOf(t, fake.Addr()))
	mustPing(t, open(t, dsn))
	if got := asked.all(); len(got) != 1 || got[0] != "two.test" {
		t.Errorf("SNI: %q", got)
	}
}

// fakeTLS returns the configuration of a server, which notes the names that it is
// asked for.
func fakeTLS(t testing.TB, asked *collector[string]) *tls.Config {
	t.Helper()
	cert, key, err := newCertificate("fake", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		NextProtos: []string{"postgresql"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if asked != nil {
				asked.add(hello.ServerName)
			}
			return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, nil
		},
	}
}

// C4: all addresses of a name are tried, and the error lists them.
func TestAllAddressesOfAName(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, good)
	port := portOf(t, fake.Addr())
	for _, before := range [][]string{{"::1"}, {"127.0.0.2"}, {"127.0.0.2", "127.0.0.3"}} {
		name := names.Add(append(before, "127.0.0.1")...)
		mustPing(t, open(t, listDSN(t, net.JoinHostPort(name, port))))
		if names.Asked(name) == 0 {
			t.Error("the name was not looked up")
		}
	}
	name := names.Add("127.0.0.2", "127.0.0.3")
	place := net.JoinHostPort(name, port)
	err := connectError(t, listDSN(t, place))
	wantInOrder(t, err, place, "127.0.0.2", place, "127.0.0.3")
	if n := fake.Sessions(); n != 3 {
		t.Errorf("%d connections", n)
	}
}

// C4: a deaf address costs one timeout, not the whole host.
func TestDeafAddressOfAName(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, good)
	port := portOf(t, fake.Addr())
	silent, err := net.Listen("tcp", net.JoinHostPort("127.0.0.2", port)) // nobody accepts
	if err != nil {
		t.Skipf("needs a second loopback address: %v", err)
	}
	defer silent.Close()
	place := net.JoinHostPort(names.Add("127.0.0.2", "127.0.0.1"), port)
	const timeout = 200 * time.Millisecond
	begun := time.Now()
	mustPing(t, open(t, listDSN(t, place), within(timeout)))
	if took := time.Since(begun); took < timeout {
		t.Errorf("it took %v", took)
	}
}

// C4: a host whose name does not exist is passed over.
func TestUnresolvableHostIsSkipped(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, good)
	mustPing(t, open(t, listDSN(t, "nosuch.test:1", fake.Addr(), "nosuch.test:2")))
	err := connectError(t, listDSN(t, "nosuch.test:17", "neither.test:18"))
	wantInOrder(t, err, "nosuch.test:17", "neither.test:18")
	if _, ok := asError[*net.DNSError](err); !ok {
		t.Errorf("got %v", err)
	}
}

// C6
func TestLoadBalanceHosts(t *testing.T) {
	t.Parallel()
	const rounds = 60
	a, b := pgfake.Start(t, good), pgfake.Start(t, good)
	name := names.Add("127.0.0.2", "127.0.0.1")
	for _, c := range []struct {
		parameter string
		random    bool
	}{{"", false}, {" load_balance_hosts=disable", false}, {" load_balance_hosts=random", true}} {
		t.Run("hosts"+c.parameter, func(t *testing.T) {
			var calls collector[string]
			connector := connector(t, listDSN(t, a.Addr(), b.Addr())+c.parameter, dialing(&calls))
			for range rounds {
				conn, err := connector.Connect(testContext(t))
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
			}
			count := map[string]int{}
			for _, address := range calls.all() {
				count[address]++
			}
			if count[a.Addr()]+count[b.Addr()] != rounds || c.random == (count[b.Addr()] == 0) {
				t.Errorf("%v", count)
			}
		})
		// All hosts are tried, in both orders, when none is there.
		t.Run("dead"+c.parameter, func(t *testing.T) {
			first, second := closedAddr(t), closedAddr(t)
			orders := map[string]int{}
			for range rounds {
				text := connectError(t, listDSN(t, first, second)+c.parameter).Error()
				i, j := strings.Index(text, first), strings.Index(text, second)
				if i < 0 || j < 0 {
					t.Fatal(text)
				}
				orders[map[bool]string{true: "first", false: "second"}[i < j]]++
			}
			if orders["first"] == 0 || c.random != (orders["second"] > 0) {
				t.Errorf("%v", orders)
			}
		})
		// So are the addresses of one name.
		t.Run("addresses"+c.parameter, func(t *testing.T) {
			orders := map[bool]int{}
			for range rounds {
				place := net.JoinHostPort(name, strconv.Itoa(closedPort(t)))
				text := connectError(t, listDSN(t, place)+c.parameter).Error()
				orders[strings.Index(text, "127.0.0.1)") < strings.Index(text, "127.0.0.2)")]++
			}
			if orders[false] == 0 || c.random != (orders[true] > 0) {
				t.Errorf("%v", orders)
			}
		})
	}
}

// C8: a look-up without an answer ends with its timeout and with the context.
func TestLookupIsUnderTheDeadline(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, good)
	place := net.JoinHostPort(names.Deaf(t), "17")
	mustPing(t, open(t, listDSN(t, place, fake.Addr()), within(100*time.Millisecond)))

	err := connectError(t, listDSN(t, place), within(100*time.Millisecond))
	wantInOrder(t, err, "pgnotify: connect to "+place, "connect_timeout of 100ms")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timeout: %v", err)
	}

	why := errors.New("no patience")
	ctx, cancel := context.WithCancelCause(testContext(t))
	name, _, _ := net.SplitHostPort(place)
	asked := names.Asked(name)
	go func() { // ends with the look-up, or with the test's context
		for names.Asked(name) == asked && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel(why)
	}()
	before := fake.Sessions()
	_, err = connector(t, listDSN(t, place, fake.Addr())).Connect(ctx)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, why) || !strings.Contains(err.Error(), place) {
		t.Errorf("cancelled: %v", err)
	}
	if fake.Sessions() != before {
		t.Error("the second host was tried after the end")
	}
}

// C8: a server that rejects the session ends the loop; one that is overloaded or
// not ready does not.
func TestRejectionStopsTheLoop(t *testing.T) {
	t.Parallel()
	for code, stops := range map[string]bool{
		"28P01": true, "28000": true, "3D000": true, "42704": true, "0A000": true,
		"57P01": false, "57P02": false, "57P03": false, "53300": false, "53200": false,
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			first, second := pgfake.Start(t, refusing(code)), pgfake.Start(t, good)
			err := open(t, listDSN(t, first.Addr(), second.Addr())).PingContext(testContext(t))
			if stops != (err != nil) || stops != (second.Sessions() == 0) || first.Sessions() != 1 {
				t.Errorf("%v; %d and %d connections", err, first.Sessions(), second.Sessions())
			}
			if err != nil && (string(serverError(t, err).Code) != code || !strings.Contains(err.Error(), first.Addr())) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// C8: the same over the addresses of one name, and with a real server.
func TestRejectionStopsTheLoopOverAddresses(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, refusing("28P01"), good)
	place := net.JoinHostPort(names.Add("127.0.0.1", "127.0.0.2", "::1"), portOf(t, fake.Addr()))
	var dialled collector[string]
	err := connectError(t, listDSN(t, place))
	if serverError(t, err).Code != "28P01" || fake.Sessions() != 1 || strings.Contains(err.Error(), "127.0.0.2") {
		t.Errorf("%v; %d connections", err, fake.Sessions())
	}

	s := ours(t)
	here := net.JoinHostPort(s.Host(), strconv.Itoa(s.Port()))
	other := pgfake.Start(t, good)
	err = connectError(t, listDSN(t, here, other.Addr())+" user=t_scram password=wrong", dialing(&dialled))
	if list := dialled.all(); serverError(t, err).Code != "28P01" || len(list) != 1 || list[0] != here {
		t.Errorf("%v; dialled %q", err, list)
	}
}

// The server's refusal is a *pq.Error, as in lib/pq, even if other addresses of the host,
// or the same one with TLS, were tried in vain before.
func TestRefusalIsBare(t *testing.T) {
	t.Parallel()
	starting, rejecting := pgfake.Start(t, refusing("57P03")), pgfake.Start(t, refusing("28000"))
	place := net.JoinHostPort(names.Add("127.0.0.2", "127.0.0.3", "127.0.0.1"), portOf(t, rejecting.Addr()))
	failing := pgfake.Start(t, pgfake.Script{pgfake.AgreeTLS(), pgfake.Send([]byte("no TLS"))}, refusing("28P01"))
	for dsn, want := range map[string][]string{
		starting.DSN():                    {"57P03"},
		listDSN(t, place):                 {place, "127.0.0.2", place, "127.0.0.3", place, "127.0.0.1", "28000"},
		failing.DSN() + " sslmode=prefer": {"TLS with", failing.Addr(), "connect to", failing.Addr(), "28P01"},
	} {
		err := connectError(t, dsn)
		if server, bare := err.(*pq.Error); !bare || server.Severity != "FATAL" || string(server.Code) != want[len(want)-1] {
			t.Errorf("%T: %v", err, err)
		}
		wantInOrder(t, err, want...)
	}
}

// C8: overloaded hosts are passed over until one rejects the session for good.
func TestRejectionAfterAnOverload(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, refusing("53300"), refusing("28P01"), good)
	other := pgfake.Start(t, good)
	err := connectError(t, listDSN(t, fake.Addr(), fake.Addr(), other.Addr()))
	wantInOrder(t, err, "53300", "28P01")
	if fake.Sessions() != 2 || other.Sessions() != 0 {
		t.Errorf("%v; %d and %d connections", err, fake.Sessions(), other.Sessions())
	}
}

// C9: cancelling during the first attempt tries no second one, of whatever kind.
func TestCancelDuringTheFirstAttempt(t *testing.T) {
	t.Parallel()
	for _, sslmode := range []string{"disable", "allow", "prefer", "require"} {
		for _, attrs := range []string{"any", "prefer-standby"} {
			t.Run(sslmode+"/"+attrs, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancel(testContext(t))
				defer cancel()
				reached := func(*pgfake.Session) error { cancel(); return nil }
				first, second := pgfake.Start(t, pgfake.Script{reached, pgfake.Drain()}), pgfake.Start(t, good)
				var dialled, asked collector[string]
				connector := connector(t, listDSN(t, first.Addr(), second.Addr())+
					" connect_timeout=20 target_session_attrs="+attrs+" sslmode="+sslmode,
					dialing(&dialled), func(c *pgnotify.Config) {
						c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
							asked.add(c.String())
							return nil
						}
					})
				if _, err := connector.Connect(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
				if list := dialled.all(); len(list) != 1 || list[0] != first.Addr() {
					t.Errorf("dialled %q", list)
				}
				if list := asked.all(); len(list) != 1 {
					t.Errorf("BeforeConnect saw %q", list)
				}
			})
		}
	}
}

// C4: sockets beside hosts: an absent one is passed over.
func TestSocketInTheList(t *testing.T) {
	t.Parallel()
	s := ours(t)
	if s.SocketDir() == "" {
		t.Skip("the server has no socket here")
	}
	port := s.Port()
	for _, hosts := range []string{"/nowhere," + s.SocketDir(), s.SocketDir() + "," + s.Host()} {
		dsn := fmt.Sprintf("%s host=%s port=%d,%d", s.dsn, hosts, port, port)
		if !queryValue[bool](t, open(t, dsn), "select inet_server_addr() is null") {
			t.Errorf("%s: not over the socket", hosts)
		}
	}
	dsn := strings.ReplaceAll(s.dsn, "sslmode=disable", "") + fmt.Sprintf(" host=/nowhere,%s port=%d,%d sslmode=require", s.Host(), port, port)
	if !encrypted(t, open(t, dsn)) {
		t.Error("the socket took TLS from the host behind it")
	}
	err := connectError(t, fmt.Sprintf("%s host=/nowhere,@nowhere port=%d,%d", s.dsn, port, port))
	wantInOrder(t, err, fmt.Sprintf("/nowhere/.s.PGSQL.%d", port), fmt.Sprintf("@nowhere/.s.PGSQL.%d", port))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
