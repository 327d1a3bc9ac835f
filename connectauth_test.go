package pgnotify_test

import (
	"strconv"
	"testing"

	"github.com/lib/pq"
)

// C14: password authentication over a unix socket too, where the tests' server
// trusts everybody: on a copy that does not. A wrong password is refused.
func TestAuthenticationOverSockets(t *testing.T) {
	t.Parallel()
	server := startStandby(t, ours(t).Server)
	if server.SocketDir() == "" {
		t.Skip("the server has no socket here")
	}
	db := open(t, server.DSN())
	const lines = "local all t_md5 md5\nlocal all t_scram scram-sha-256\nlocal all t_password password\nlocal all t_reject reject\n"
	hba := queryValue[string](t, db, "select pg_read_file('pg_hba.conf')")
	if err := writeOnServer(testContext(t), db, "pg_hba.conf", lines+hba); err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, "select pg_reload_conf()")
	dsn := server.DSN() + " host=" + server.SocketDir()
	until(t, "the rules are in force", func() bool {
		return open(t, dsn+" user=t_reject").PingContext(testContext(t)) != nil
	})
	socket := server.SocketDir() + "/.s.PGSQL." + strconv.Itoa(server.Port())
	for _, user := range []string{"t_md5", "t_scram", "t_password"} {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			dsn := dsn + " user=" + user
			s := take(t, open(t, dsn+" password="+quote(testPassword)))
			if got := queryValue[string](t, s, "select session_user || ' ' || (inet_server_addr() is null)::text"); got != user+" true" {
				t.Errorf("got %s", got)
			}
			for _, wrong := range []string{" password=hush", " password='' passfile=/nowhere"} {
				err := connectError(t, dsn+wrong)
				rejected, ok := asError[*pq.Error](err)
				if !ok || rejected.Code.Class() != "28" {
					t.Errorf("%s: %v", wrong, err)
				}
				wantInOrder(t, err, socket, user)
			}
		})
	}
}
