package pgnotify_test

import (
	"testing"
	"time"

	"github.com/pgnotify/pgnotify"
	"github.com/pgnotify/pgnotify/internal/pgserver"
)

// L24 under load, with a ledger: a standby is promoted while its primary dies or is cut
// off. The replication is synchronous, so that what was heard of is in the table that the
// standby has.
func TestListenerFollowsThePrimaryUnderLoad(t *testing.T) {
	t.Parallel()
	for name, partition := range map[string]bool{"crash": false, "partition": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPair(t)
			fail, option := p.fault(t, partition)
			primary := open(t, p.primary.DSN())
			mustExec(t, primary, "alter system set synchronous_standby_names = '*'")
			mustExec(t, primary, "select pg_reload_conf()")
			until(t, "the standby is synchronous", func() bool {
				return queryValue[bool](t, primary, "select exists (select from pg_stat_replication where sync_state = 'sync')")
			})
			r := newLoadRig(t, p.dsn(), connector(t, p.secureDSN(), option, within(time.Second)))
			r.untilMore(t)
			fail()
			lost := r.events.await(t, pgnotify.ListenerDisconnected, 1)
			if partition {
				wantLostFor(t, lost.Err, pgnotify.NetworkTimeout)
				if err := p.primary.Stop(testContext(t), pgserver.Immediate); err != nil { // or the sender would go on there
					t.Fatal(err)
				}
			}
			if !queryValue[bool](t, open(t, p.standby.DSN()), "select pg_promote()") {
				t.Fatal("not promoted")
			}
			r.events.await(t, pgnotify.ListenerConnected, 2)
			r.untilMore(t)
			if found := r.audit(t); found.missing == 0 && partition {
				t.Error("nothing is missing of what was sent during the silence")
			}
		})
	}
}
