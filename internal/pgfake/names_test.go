package pgfake_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pgnotify/pgnotify/internal/pgfake"
)

func TestNames(t *testing.T) {
	t.Parallel()
	names := pgfake.NewNames(map[string][]string{"known.test": {"127.0.0.7"}})
	resolver := names.Resolver()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	added := names.Add("127.0.0.1", "127.0.0.2", "::1")
	if names.Asked(added) != 0 {
		t.Error("asked for before")
	}
	for name, want := range map[string][]string{"known.test": {"127.0.0.7"}, added: {"127.0.0.1", "127.0.0.2", "::1"}} {
		got, err := resolver.LookupHost(ctx, name)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if names.Asked(added) == 0 {
		t.Error("not asked for")
	}
	var dns *net.DNSError
	if _, err := resolver.LookupHost(ctx, "unknown.test"); !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("unknown: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := resolver.LookupHost(short, names.Deaf(t)); !errors.As(err, &dns) || !dns.IsTimeout {
		t.Errorf("deaf: %v", err)
	}
}
