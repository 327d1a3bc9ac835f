package pgnotify_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify"
)

// A trigger that makes the server say all that it may say beside an answer.
const talkative = `
	create temp table talkative (i int, text text);
	create function pg_temp.talk() returns trigger language plpgsql as $$ begin
		raise notice 'row %', new.i;
		perform set_config('application_name', current_setting('pgnotify.name') || ' ' || new.i, false);
		perform set_config('DateStyle', (array['ISO, MDY', 'ISO, DMY'])[1 + new.i % 2], false);
		perform pg_notify(current_setting('pgnotify.channel'), 'row ' || new.i);
		return new;
	end $$;
	create trigger talk before insert on talkative for each row execute procedure pg_temp.talk();`

// N27
func TestMessagesDuringOtherAnswers(t *testing.T) {
	const rows = 300
	for name, insert := range map[string]func(t *testing.T, tx *sql.Tx){
		"COPY": func(t *testing.T, tx *sql.Tx) {
			st, err := tx.Prepare("copy talkative (i, text) from stdin")
			if err != nil {
				t.Fatal(err)
			}
			for i := range rows {
				if _, err := st.Exec(i, strings.Repeat("x", 1000)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := st.Exec(); err != nil {
				t.Fatal(err)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"rows": func(t *testing.T, tx *sql.Tx) {
			wantRows(t, tx, rows, "insert into talkative select i, repeat('x', 10000) from generate_series(0, 299) i returning i, text")
		},
		"extended": func(t *testing.T, tx *sql.Tx) {
			wantRows(t, tx, rows, "insert into talkative select i, $1 from generate_series(0, $2) i returning i, text", "text", rows-1)
		},
		"prepared": func(t *testing.T, tx *sql.Tx) {
			st, err := tx.Prepare("insert into talkative values ($1, $2)")
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			for i := range rows {
				if _, err := st.Exec(i, "text"); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachSession(t, func(t *testing.T, db *sql.DB, s *session) {
				channel := uniqueName("n27")
				mustExec(t, s, talkative)
				mustExec(t, s, fmt.Sprintf("set pgnotify.channel = '%s'; set pgnotify.name = '%s'", channel, appName))
				var notices int
				s.pc.AddNoticeHandler(func(n *pgnotify.Notice) {
					if n.Message == fmt.Sprint("row ", notices) {
						notices++
					}
				})
				s.listen(t, channel)
				flood := newFlood(t, db, channel)
				for range 3 { // while others notify it
					notices = 0
					tx := mustBegin(t, s)
					insert(t, tx)
					mustCommit(t, tx)
					if notices != rows {
						t.Errorf("%d notices were handled in order when the statement returned, want %d", notices, rows)
					}
					if name, _ := s.pc.ParameterStatus("application_name"); name != fmt.Sprint(appName, " ", rows-1) {
						t.Errorf("application_name is %q", name)
					}
					if style, _ := s.pc.ParameterStatus("DateStyle"); style != "ISO, DMY" {
						t.Errorf("DateStyle is %q", style)
					}
				}
				sent := flood.stop(t)
				s.settle(t)
				flooded, own := 0, 0
				for _, p := range payloads(t, s, pgnotify.Timeout(0)) {
					switch p {
					case fmt.Sprint("flood ", flooded):
						flooded++
					case fmt.Sprint("row ", own%rows):
						own++
					default:
						t.Fatalf("got %q after %d of the flood and %d own", p, flooded, own)
					}
				}
				if flooded != sent || own != 3*rows {
					t.Errorf("got %d notifications of %d, and %d own of %d", flooded, sent, own, 3*rows)
				}
			})
		})
	}
}

func wantRows(t *testing.T, tx *sql.Tx, want int, query string, args ...any) {
	t.Helper()
	rows, err := tx.Query(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	count := 0
	for ; rows.Next(); count++ {
		var (
			i    int
			text string
		)
		if err := rows.Scan(&i, &text); err != nil || i != count {
			t.Fatalf("row %d: got %d, %v", count, i, err)
		}
	}
	if err := rows.Err(); err != nil || count != want {
		t.Fatalf("got %d rows, %v; want %d", count, err, want)
	}
}

// A flood of notifications from another session.
type flood struct {
	cancel context.CancelFunc
	done   chan struct{}
	sent   int
	err    error
}

// newFlood returns when the flood has begun.
func newFlood(t *testing.T, db *sql.DB, channel string) *flood {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	f := &flood{cancel: cancel, done: make(chan struct{})}
	begun := make(chan struct{})
	go func() { // until stop, or the end of the test
		defer close(f.done)
		for ; ctx.Err() == nil && f.err == nil; f.sent++ {
			f.err = pgnotify.Notify(context.Background(), db, channel, fmt.Sprint("flood ", f.sent))
			if f.sent == 0 {
				close(begun)
			}
		}
	}()
	t.Cleanup(func() { f.stop(t) })
	<-begun
	return f
}

// stop returns how many notifications were sent.
func (f *flood) stop(t *testing.T) int {
	t.Helper()
	f.cancel()
	<-f.done
	if f.err != nil {
		t.Errorf("the flood: %v", f.err)
	}
	return f.sent
}
