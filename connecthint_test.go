package pgnotify_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The error of a parameter that the server does not know says what was probably meant.
func TestHintAtAParameter(t *testing.T) {
	t.Parallel()
	for parameter, want := range map[string]string{
		"sslmod=disable":         "(did you mean sslmode?) (42704)",
		"conect_timeout=3":       "(did you mean connect_timeout?) (42704)",
		"nonsense=1":             "(42704)",
		"work_mem=tiny":          "(22023)",
		"sslmod=a work_mem=1000": "(did you mean sslmode?) (42704)",
	} {
		err := connectError(t, dsn(t)+" "+parameter)
		if !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", parameter, err)
		}
		serverError(t, err)
	}
}

// A refused password says whether there was one.
func TestNoPasswordWasGiven(t *testing.T) {
	t.Parallel()
	s := ours(t)
	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, []byte("*:*:*:t_scram:hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]bool{
		" user=t_scram password='' passfile=/nowhere":       true,
		" user=t_md5 password='' passfile=/nowhere":         true,
		" user=t_password password='' passfile=/nowhere":    true,
		" user=t_md5 password='' passfile=" + quote(file):   false, // it may have been wrong there
		" user=t_scram password='' passfile=" + quote(file): false,
		" user=t_scram password=hush passfile=/nowhere":     false,
	} {
		err := connectError(t, s.dsn+given)
		if serverError(t, err).Code != "28P01" || strings.Contains(err.Error(), "(no password was given)") != want || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", given, err)
		}
	}
}
