package pgnotify

import (
	"reflect"
	"strings"
	"testing"

	"github.com/pgnotify/pgnotify/internal/wire"
)

// O6: whatever an event holds counts in its weight.
func TestWeightOfEvents(t *testing.T) {
	t.Parallel()
	const size = 1000
	if fields := reflect.TypeFor[Notice]().NumField(); fields != 18 {
		t.Errorf("a Notice has %d fields", fields)
	}
	for i := range reflect.TypeFor[Notice]().NumField() {
		n := new(Notice)
		reflect.ValueOf(n).Elem().Field(i).SetString(strings.Repeat("x", size))
		own := int(reflect.TypeFor[Notice]().Size())
		if got := (event{notice: n}).weight(); got < own+size {
			t.Errorf("%s does not count: %d", reflect.TypeFor[Notice]().Field(i).Name, got)
		}
	}
	own := int(reflect.TypeFor[wire.Notification]().Size())
	if own > notificationSize {
		t.Errorf("a notification takes %d bytes", own)
	}
	for _, n := range []wire.Notification{{Channel: strings.Repeat("x", size)}, {Payload: strings.Repeat("x", size)}} {
		items := make([]wire.Notification, 2, 10)
		items[0], items[1] = n, n
		if got := (event{notifications: items}).weight(); got < 2*size+10*own {
			t.Errorf("%d bytes for two of %d with room for ten", got, size)
		}
	}
}
