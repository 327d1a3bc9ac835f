package pgnotify_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"strings"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// C12
func TestBeforeConnect(t *testing.T) {
	t.Parallel()
	s := ours(t)
	var calls collector[string]
	var password atomic.Value
	password.Store("wrong")
	db := open(t, fmt.Sprintf("%s user=t_scram password=stale host=%s,%s port=%d,%d", s.dsn, s.Host(), s.Host(), closedPort(t), s.Port()),
		func(c *pgnotify.Config) {
			c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
				calls.add(fmt.Sprint(c.Port, len(c.Multi)))
				c.Password = password.Load().(string)
				c.Runtime["search_path"] = "rotated"
				return nil
			}
		})
	if err := db.PingContext(testContext(t)); serverError(t, err).Code != "28P01" {
		t.Errorf("with the wrong password: %v", err)
	}
	password.Store(testPassword)
	if got := queryValue[string](t, db, "show search_path"); got != "rotated" {
		t.Errorf("search_path is %s", got)
	}
	list := calls.all()
	if last := fmt.Sprint(s.Port(), 0); len(list) != 4 || list[1] != last || list[3] != last {
		t.Errorf("calls: %q", list)
	}

	mine := &tls.Config{ServerName: "mine"}
	err := connectError(t, dsn(t)+" sslmode=require", func(c *pgnotify.Config) {
		c.TLSConfig = mine
		c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
			c.TLSConfig.ServerName = "for this attempt"
			return errors.New("enough")
		}
	})
	if err == nil || mine.ServerName != "mine" {
		t.Errorf("%v, the TLSConfig was changed to %q", err, mine.ServerName)
	}

	refused := errors.New("no credentials today")
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	err = connectError(t, fake.DSN(), func(c *pgnotify.Config) {
		c.BeforeConnect = func(context.Context, *pgnotify.Config) error { return refused }
	})
	if !errors.Is(err, refused) || fake.Sessions() != 0 {
		t.Errorf("%v, %d sessions", err, fake.Sessions())
	}
}

func TestOnConnect(t *testing.T) {
	t.Parallel()
	var pids collector[uint32]
	db := open(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(ctx context.Context, conn *pgnotify.Conn) error {
			pids.add(conn.PID())
			_, err := conn.ExecContext(ctx, "set search_path = prepared", nil)
			return err
		}
	})
	s := take(t, db)
	if got := queryValue[string](t, s, "show search_path"); got != "prepared" {
		t.Errorf("search_path is %s", got)
	}
	if list := pids.all(); !slices.Equal(list, []uint32{s.pc.PID()}) {
		t.Errorf("called for %v, the session is %d", list, s.pc.PID())
	}

	refused := errors.New("I do not like it")
	var conn atomic.Pointer[pgnotify.Conn]
	err := connectError(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(_ context.Context, c *pgnotify.Conn) error {
			conn.Store(c)
			return refused
		}
	})
	if !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if status := conn.Load().TransactionStatus(); status != pgnotify.TransactionUnknown {
		t.Errorf("the session is %v", status)
	}

	connector := connector(t, dsn(t), func(c *pgnotify.Config) {
		c.OnConnect = func(_ context.Context, c *pgnotify.Conn) error {
			conn.Store(c)
			panic("I do not like it")
		}
	})
	defer func() {
		if p := recover(); p == nil || conn.Load().TransactionStatus() != pgnotify.TransactionUnknown {
			t.Errorf("panic %v, the session is %v", p, conn.Load().TransactionStatus())
		}
	}()
	_, _ = connector.Connect(testContext(t))
}

func TestOnNotice(t *testing.T) {
	t.Parallel()
	var calls collector[string]
	db := open(t, dsn(t), func(c *pgnotify.Config) {
		c.OnNotice = func(conn *pgnotify.Conn, n *pgnotify.Notice) { calls.add(fmt.Sprint(conn.PID(), " ", n.Message)) }
	})
	first, second := take(t, db), take(t, db)
	first.pc.AddNoticeHandler(func(n *pgnotify.Notice) { calls.add("handler " + n.Message) })
	mustExec(t, first, raise("notice", "one"))
	mustExec(t, second, raise("notice", "two"))
	want := []string{fmt.Sprint(first.pc.PID(), " one"), "handler one", fmt.Sprint(second.pc.PID(), " two")}
	if got := calls.all(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A handler of the start-up's notices may use the session, and has run when the
// pool gets it.
func TestHandlerOfStartupNoticesUsesTheSession(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, pgfake.Script{pgfake.Startup(),
		pgfake.Send(pgfake.Frame('R', "\x00\x00\x00\x00"), pgfake.Parameter("server_version", "15.0"),
			pgfake.Frame('K', "\x00\x00\x00\x01key!"), pgfake.Notice("WARNING", "01000", "it expires soon"), pgfake.Ready('I')),
		pgfake.Serve()})
	heard := make(chan error, 1)
	take(t, open(t, fake.DSN(), func(c *pgnotify.Config) {
		c.OnNotice = func(conn *pgnotify.Conn, _ *pgnotify.Notice) { heard <- conn.Ping(testContext(t)) }
	}))
	select {
	case err := <-heard:
		if err != nil {
			t.Error(err)
		}
	default:
		t.Error("the session was there before the handler had run")
	}
}

// C12: BeforeConnect sees each host of each pass, and its credentials are used
// for that attempt only.
func TestBeforeConnectSeesEveryAttempt(t *testing.T) {
	t.Parallel()
	closed := closedAddr(t)
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.Serve()})
	var calls collector[string]
	var n atomic.Int32
	err := connectError(t, listDSN(t, closed, "nosuch.test:17")+" target_session_attrs=prefer-standby password=stale",
		func(c *pgnotify.Config) {
			c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
				calls.add(fmt.Sprintf("%s:%d %s", c.Host, c.Port, c.Password))
				c.Password = fmt.Sprint("fresh", n.Add(1))
				return nil
			}
		})
	want := strings.Repeat(closed+" stale|nosuch.test:17 stale|", 2)
	if got := strings.Join(calls.all(), "|") + "|"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if strings.Contains(err.Error(), "fresh") || strings.Contains(err.Error(), "stale") {
		t.Error(err)
	}
	if n := strings.Count(err.Error(), "\n"); n != 2 {
		t.Errorf("the passes are not told as one: %v", err)
	}
	// It may lead elsewhere, by another way.
	var dialled collector[string]
	db := open(t, listDSN(t, "nosuch.test:1"), func(c *pgnotify.Config) {
		c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
			parsed, err := pgnotify.ParseConfig(fake.DSN())
			if err != nil {
				return err
			}
			c.Host, c.Port = parsed.Host, parsed.Port
			dialing(&dialled)(c)
			return nil
		}
	})
	mustPing(t, db)
	if list := dialled.all(); len(list) != 1 || list[0] != fake.Addr() {
		t.Errorf("dialled %q", list)
	}
}

// C12: each session has the credentials of its moment.
func TestRotatingCredentials(t *testing.T) {
	t.Parallel()
	s := ours(t)
	users := []string{"t_scram", "t_md5", "t_password", "t_trust"}
	var n atomic.Int32
	db := open(t, s.dsn+" user=nobody", func(c *pgnotify.Config) {
		c.BeforeConnect = func(_ context.Context, c *pgnotify.Config) error {
			user := users[int(n.Add(1)-1)%len(users)]
			c.User, c.Password, c.Database, c.ApplicationName = user, testPassword, "template1", c.ApplicationName+"-"+user
			return nil
		}
	})
	db.SetMaxIdleConns(0)
	for range 2 {
		for _, user := range users {
			got := queryValue[string](t, db, "select session_user || ' ' || current_database() || ' ' || current_setting('application_name')")
			if want := fmt.Sprintf("%s template1 %s-%s", user, appName, user); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

// C12: BeforeConnect is under connect_timeout and the context, and its failure
// ends Connect.
func TestBeforeConnectThatHangs(t *testing.T) {
	t.Parallel()
	fake := pgfake.Start(t, good)
	hang := func(c *pgnotify.Config) {
		c.BeforeConnect = func(ctx context.Context, _ *pgnotify.Config) error {
			<-ctx.Done()
			return ctx.Err()
		}
	}
	err := connectError(t, listDSN(t, fake.Addr(), fake.Addr()), hang, within(50*time.Millisecond))
	wantInOrder(t, err, "BeforeConnect for "+fake.Addr(), "connect_timeout of 50ms")
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	_, err = connector(t, fake.DSN(), hang).Connect(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || fake.Sessions() != 0 {
		t.Errorf("%v, %d connections", err, fake.Sessions())
	}
}
