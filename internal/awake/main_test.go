package awake_test

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when goroutines are left behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
