package pgnotify_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgfake"
)

// O6: the bounds of what waits for a slow program count all that they bound. A server may
// send more of anything than PostgreSQL would. These tests are not parallel, because they
// measure the memory of the process.

// flooded returns a session that has received frames while it was idle, and the memory
// that is used since before.
func flooded(t *testing.T, prepare func(*session), frames func(send func([]byte) error) error) (*session, int64) {
	t.Helper()
	begin := make(chan struct{})
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), pgfake.WaitFor(begin),
		func(c *pgfake.Session) error {
			return frames(func(b []byte) error { _, err := c.Write(b); return err })
		},
		pgfake.Serve()})
	s := take(t, open(t, fake.DSN()+" sslmode=disable"))
	s.pc.Activate()
	prepare(s)
	before := heap()
	close(begin)
	queryValue[string](t, s, "select 1") // its answer comes behind all that was sent
	return s, heap() - before
}

func TestMemoryOfNotices(t *testing.T) {
	const count, size = 400, 100_000
	stop, running := make(chan struct{}), make(chan struct{}, count)
	s, used := flooded(t, func(s *session) {
		s.pc.AddNoticeHandler(func(*pgnotify.Notice) {
			running <- struct{}{}
			<-stop
		})
	}, func(send func([]byte) error) error {
		const fields = "SVCMDHPpqWstcdnFLR"
		for i := range count {
			body := "SNOTICE\x00VNOTICE\x00C00000\x00Mm\x00"
			body += string(fields[i%len(fields)]) + strings.Repeat("x", size) + "\x00\x00"
			if err := send(pgfake.Frame('N', body)); err != nil {
				return err
			}
		}
		return nil
	})
	recv(t, running)
	if bound := int64(4<<20 + 1<<20); used > bound {
		t.Errorf("%d notices of %d bytes hold %d bytes, above %d", count, size, used, bound)
	}
	close(stop)
	s.Conn.Close()
}

func TestMemoryOfNotificationsOfLongChannels(t *testing.T) {
	const count, size = 1000, 60_000
	for _, handler := range []bool{false, true} {
		t.Run(fmt.Sprint("handler ", handler), func(t *testing.T) {
			stop := make(chan struct{})
			bound := int64(16<<20 + 2<<20)
			s, used := flooded(t, func(s *session) {
				if handler {
					bound += 4 << 20
					s.pc.AddNotificationHandler(func(pgnotify.Notification) { <-stop })
				}
			}, func(send func([]byte) error) error {
				for i := range count {
					if err := send(pgfake.Notification(1, fmt.Sprintf("%0*d", size, i), "")); err != nil {
						return err
					}
				}
				return nil
			})
			if used > bound {
				t.Errorf("%d notifications with channels of %d bytes hold %d bytes, above %d", count, size, used, bound)
			}
			close(stop)
			s.Conn.Close()
		})
	}
}

// Where other messages come between notifications, a read of the socket brings few of
// them, for which there is memory for many.
func TestMemoryOfSparseNotifications(t *testing.T) {
	const count = 2000
	s, used := flooded(t, func(*session) {}, func(send func([]byte) error) error {
		more := pgfake.Notice("NOTICE", "00000", strings.Repeat("x", 60_000))
		for range count {
			if err := send(append(pgfake.Notification(1, "a", ""), more...)); err != nil {
				return err
			}
		}
		return nil
	})
	if bound := int64(4 << 20); used > bound {
		t.Errorf("%d notifications hold %d bytes, above %d", count, used, bound)
	}
	kept := 0
	for _, err := range s.pc.Notifications(testContext(t), pgnotify.Timeout(0)) {
		if err != nil {
			t.Fatal(err)
		}
		kept++
	}
	if kept != count {
		t.Errorf("%d of %d were kept", kept, count)
	}
}

// What a session keeps of its statements is mostly what the server says of their columns.
func TestMemoryOfStatements(t *testing.T) {
	const count, columns, size = 100, 200, 1000
	names := make([]string, columns)
	for i := range names {
		names[i] = strings.Repeat("x", size)
	}
	var closed atomic.Int32
	fake := pgfake.Start(t, pgfake.Script{pgfake.Greet(), func(c *pgfake.Session) error {
		answers := map[byte][]byte{
			'P': pgfake.Frame('1', ""), 'B': pgfake.Frame('2', ""), 'C': pgfake.Frame('3', ""), 'S': pgfake.Ready('I'),
			'D': append(pgfake.Frame('t', "\x00\x01\x00\x00\x00\x19"), pgfake.Columns(names...)...), 'E': pgfake.Complete("SELECT 0"),
		}
		for {
			typ, _, err := c.Message()
			if err != nil || typ == 'X' {
				return err
			}
			if typ == 'C' {
				closed.Add(1)
			}
			if _, err := c.Write(answers[typ]); err != nil {
				return err
			}
		}
	}})
	db := open(t, fake.DSN()+" sslmode=disable")
	s := take(t, db)
	before := heap()
	for i := range count {
		mustExec(t, s, fmt.Sprintf("select %d, $1", i), "x")
	}
	if used, bound := heap()-before, int64(5<<20); used > bound {
		t.Errorf("%d statements with %d columns hold %d bytes, above %d", count, columns, used, bound)
	}
	if n := closed.Load(); n < count/2 {
		t.Errorf("the server was told to forget %d of them", n)
	}
	s.Conn.Close()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
