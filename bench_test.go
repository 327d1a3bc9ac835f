package pgnotify_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/lib/pq"

	"github.com/pgnotify/pgnotify"
)

// BenchmarkReceive is the cost of a notification of 10 bytes, from the socket to
// the program, when they come as fast as they can. An iteration is a round of a
// million for pgnotify and a million for lib/pq's Listener, in turn. cpu-ns is
// processor time of this process, all goroutines, for a notification, in the
// median round; dropped counts, over all rounds, what the bounded backlog did
// not keep.
func BenchmarkReceive(b *testing.B) {
	const round = 1_000_000
	s := take(b, open(b, startFirehose(b)))
	l := listenLibpq(b, startFirehose(b))
	var ours, theirs []time.Duration
	var mallocs, peerMallocs, dropped uint64
	b.ResetTimer()
	for range b.N {
		d, m := measure(func() { receiveLibpq(b, l, round) })
		theirs, peerMallocs = append(theirs, d), m
		d, m = measure(func() { dropped += receivePgnotify(b, s.pc, round) })
		ours, mallocs = append(ours, d), m
	}
	b.ReportMetric(float64(median(ours))/round, "cpu-ns")
	b.ReportMetric(float64(median(theirs))/round, "libpq-cpu-ns")
	b.ReportMetric(float64(median(theirs))/float64(median(ours)), "times-cheaper")
	b.ReportMetric(float64(mallocs)/round, "mallocs")
	b.ReportMetric(float64(peerMallocs)/round, "libpq-mallocs")
	b.ReportMetric(float64(dropped), "dropped")
	b.ReportMetric(0, "ns/op")
}

// measure returns the processor time and the allocations of f.
func measure(f func()) (cpu time.Duration, mallocs uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := cpuTime()
	f()
	cpu = cpuTime() - start
	runtime.ReadMemStats(&after)
	return cpu, after.Mallocs - before.Mallocs
}

// listenLibpq returns a listener that is connected: what comes before that, it
// drops.
func listenLibpq(b *testing.B, dsn string) *pq.Listener {
	connected := make(chan struct{}, 1)
	l := pq.NewListener(dsn, time.Second, time.Second, func(e pq.ListenerEventType, _ error) {
		if e == pq.ListenerEventConnected {
			connected <- struct{}{}
		}
	})
	b.Cleanup(func() { l.Close() })
	<-connected
	return l
}

func receivePgnotify(b *testing.B, pc *pgnotify.Conn, count int) (dropped uint64) {
	ctx := context.Background()
	if err := pc.Listen(ctx, fmt.Sprintf("fire_%d", count)); err != nil {
		b.Fatal(err)
	}
	left := count
	for n, err := range pc.Notifications(ctx) {
		if gap, ok := err.(*pgnotify.GapError); ok {
			left -= int(gap.Gap.Dropped)
			dropped += gap.Gap.Dropped
		} else if err != nil || len(n.Payload) != len(firehosePayload) {
			b.Fatal(n, err)
		} else {
			left--
		}
		if left == 0 {
			break
		}
	}
	return dropped
}

func receiveLibpq(b *testing.B, l *pq.Listener, count int) {
	channel := fmt.Sprintf("fire_%d", count)
	if err := l.Listen(channel); err != nil {
		b.Fatal(err)
	}
	for left := count; left > 0; {
		if n := <-l.Notify; n != nil {
			if len(n.Extra) != len(firehosePayload) {
				b.Fatal(n)
			}
			left--
		}
	}
	if err := l.Unlisten(channel); err != nil { // or it would not LISTEN again
		b.Fatal(err)
	}
}

// BenchmarkQueryBesideLibpq runs the same work through pgnotify and through
// lib/pq, in turn, and reports the medians' ratio of processor time: below 1
// pgnotify is the cheaper. Times and allocations are pgnotify's.
func BenchmarkQueryBesideLibpq(b *testing.B) {
	ours, theirs := open(b, dsn(b)), openLibpq(b)
	cancellable, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, work := range []struct {
		name   string
		rounds int
		f      func(b testing.TB, db *sql.DB)
	}{
		{"point", 500, func(b testing.TB, db *sql.DB) { scanOne(b, context.Background(), db, "select 1") }},
		{"pointCancellable", 500, func(b testing.TB, db *sql.DB) { scanOne(b, cancellable, db, "select 1") }},
		{"argument", 300, func(b testing.TB, db *sql.DB) { scanOne(b, context.Background(), db, "select $1::int", 1) }},
		{"rows300k", 1, func(b testing.TB, db *sql.DB) {
			scanAll(b, db, "select i, 'text of row ' || i from generate_series(1, 300000) i")
		}},
		{"values1MB", 4, func(b testing.TB, db *sql.DB) {
			scanAll(b, db, "select i, repeat('x', 1000000) from generate_series(1, 10) i")
		}},
	} {
		b.Run(work.name, func(b *testing.B) {
			round := func(db *sql.DB) (cpu time.Duration, mallocs uint64) {
				return measure(func() {
					for range work.rounds {
						work.f(b, db)
					}
				})
			}
			round(ours) // warm up
			round(theirs)
			b.ResetTimer()
			var cpu, peer []time.Duration
			var mallocs, peerMallocs uint64
			for range b.N {
				d, m := round(theirs)
				peer, peerMallocs = append(peer, d), m
				d, m = round(ours)
				cpu, mallocs = append(cpu, d), m
			}
			per := float64(work.rounds)
			b.ReportMetric(float64(median(cpu))/per, "cpu-ns/op")
			b.ReportMetric(float64(median(peer))/per, "libpq-cpu-ns/op")
			b.ReportMetric(float64(median(cpu))/float64(median(peer)), "cpu-ratio")
			b.ReportMetric(float64(mallocs)/per, "mallocs/op")
			b.ReportMetric(float64(peerMallocs)/per, "libpq-mallocs/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func openLibpq(b testing.TB) *sql.DB {
	return libpqPool(b, dsn(b)+" application_name="+appName)
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func scanOne(b testing.TB, ctx context.Context, db *sql.DB, query string, args ...any) {
	var v int
	if err := db.QueryRowContext(ctx, query, args...).Scan(&v); err != nil {
		b.Fatal(err)
	}
}

func scanAll(b testing.TB, db *sql.DB, query string) {
	rows, err := db.Query(query)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	var (
		i    int
		text sql.RawBytes
	)
	for rows.Next() {
		if err := rows.Scan(&i, &text); err != nil {
			b.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkIdleSession is the heap that an idle, passive session of a pool holds
// after it has run a query twice, under a context that can be cancelled, beside
// lib/pq's.
func BenchmarkIdleSession(b *testing.B) {
	const sessions = 500
	dsn := startFirehose(b)
	libpq, err := pq.NewConnector(dsn)
	if err != nil {
		b.Fatal(err)
	}
	ours := connector(b, dsn)
	for range b.N {
		theirs := heapOf(b, sessions, libpq)
		held := heapOf(b, sessions, ours)
		b.ReportMetric(held, "B/session")
		b.ReportMetric(theirs, "libpq-B/session")
		b.ReportMetric(held-theirs, "B-more/session")
	}
	b.ReportMetric(0, "ns/op")
}

// heapOf uses n sessions of a pool and returns the bytes of heap that each holds
// afterwards.
func heapOf(b *testing.B, n int, c driver.Connector) float64 {
	db := sql.OpenDB(c)
	defer db.Close()
	db.SetMaxIdleConns(n)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	before := heap()
	for range 2 {
		conns := make([]*sql.Conn, n)
		for i := range conns {
			var err error
			if conns[i], err = db.Conn(ctx); err != nil {
				b.Fatal(err)
			}
			if _, err := conns[i].ExecContext(ctx, "unlisten"); err != nil {
				b.Fatal(err)
			}
		}
		for _, conn := range conns {
			conn.Close()
		}
	}
	return float64(heap()-before) / float64(n)
}

// BenchmarkListener is BenchmarkReceive for a Listener with one subscriber, and
// the cost of each further delivery with a thousand, who each take a burst of 500
// when it is there.
func BenchmarkListener(b *testing.B) {
	const round, subscribers, burst = 1_000_000, 1000, 500
	l, err := pgnotify.NewListener(connector(b, startFirehose(b)), &pgnotify.ListenerConfig{Heartbeat: -1, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	defer subscribeBench(b, l, "first", 2).Close() // from then on a Subscription hears all that follows its LISTEN
	peer := listenLibpq(b, startFirehose(b))
	var ours, theirs, fanOut []time.Duration
	var mallocs, fanOutMallocs, dropped uint64
	b.ResetTimer()
	for i := range b.N {
		d, _ := measure(func() { receiveLibpq(b, peer, round) })
		theirs = append(theirs, d)
		d, mallocs = measure(func() { dropped += receiveListener(b, l, round) })
		ours = append(ours, d)
		one, m1 := fanOutTo(b, l, fmt.Sprint("one", i), burst, 1)
		all, mAll := fanOutTo(b, l, fmt.Sprint("many", i), burst, subscribers)
		fanOut, fanOutMallocs = append(fanOut, all-one), mAll-m1
	}
	const further = burst * (subscribers - 1)
	b.ReportMetric(float64(median(ours))/round, "cpu-ns")
	b.ReportMetric(float64(median(theirs))/round, "libpq-cpu-ns")
	b.ReportMetric(float64(median(theirs))/float64(median(ours)), "times-cheaper")
	b.ReportMetric(float64(mallocs)/round, "mallocs")
	b.ReportMetric(float64(dropped), "dropped")
	b.ReportMetric(float64(median(fanOut))/further, "further-cpu-ns")
	b.ReportMetric(float64(int64(fanOutMallocs))/further, "further-mallocs")
	b.ReportMetric(0, "ns/op")
}

// receiveListener takes count notifications.
func receiveListener(b *testing.B, l *pgnotify.Listener, count int) (dropped uint64) {
	sub := subscribeBench(b, l, fmt.Sprintf("fire_%d", count), 64<<10)
	defer sub.Close()
	for left := count; left > 0; {
		if e := <-sub.Events(); e.Gap != nil {
			left -= int(e.Gap.Dropped)
			dropped += e.Gap.Dropped
		} else if left--; len(e.Payload) != len(firehosePayload) {
			b.Fatal(e)
		}
	}
	return dropped
}

// fanOutTo measures the delivery of count notifications to each of many, over a channel
// that the Listener has not heard yet: who subscribes again before the UNLISTEN needs no
// LISTEN, with which the firehose begins.
func fanOutTo(b *testing.B, l *pgnotify.Listener, name string, count, subscribers int) (time.Duration, uint64) {
	channel := fmt.Sprintf("%s_%d", name, count)
	subs := make([]*pgnotify.Subscription, subscribers)
	for i := range subs {
		subs[i] = subscribeBench(b, l, channel, count+1)
		defer subs[i].Close()
	}
	return measure(func() {
		defer subscribeBench(b, l, "start_"+channel, 2).Close()
		for _, sub := range subs {
			for range count {
				if e := <-sub.Events(); e.Gap != nil {
					b.Fatal(e.Gap)
				}
			}
		}
	})
}

func subscribeBench(b *testing.B, l *pgnotify.Listener, channel string, size int) *pgnotify.Subscription {
	sub, err := l.SubscribeConfig(context.Background(), pgnotify.SubscriptionConfig{Channels: []string{channel}, QueueSize: size})
	if err != nil {
		b.Fatal(err)
	}
	return sub
}

// BenchmarkForeignConn is what it costs that a connection of DialContext is not a
// socket, which is read ahead and written by goroutines of its own: processor time and
// allocations beside those over a socket, in the median round.
func BenchmarkForeignConn(b *testing.B) {
	socket, foreign := open(b, dsn(b)), open(b, dsn(b), hideSockets)
	for _, work := range []struct {
		name   string
		rounds int
		f      func(db *sql.DB)
	}{
		{"point", 500, func(db *sql.DB) { scanOne(b, context.Background(), db, "select 1") }},
		{"values1MB", 1, func(db *sql.DB) {
			scanAll(b, db, "select i, repeat('x', 1000000) from generate_series(1, 10) i")
		}},
	} {
		b.Run(work.name, func(b *testing.B) {
			var cpu, without []time.Duration
			var mallocs uint64
			for range b.N {
				for _, db := range []*sql.DB{socket, foreign} {
					d, m := measure(func() {
						for range work.rounds {
							work.f(db)
						}
					})
					if db == socket {
						without = append(without, d)
					} else {
						cpu, mallocs = append(cpu, d), m
					}
				}
			}
			per := float64(work.rounds)
			b.ReportMetric(float64(median(cpu))/per, "cpu-ns/op")
			b.ReportMetric(float64(median(without))/per, "socket-cpu-ns/op")
			b.ReportMetric(float64(mallocs)/per, "mallocs/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}
