package identity

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also is the second process of the tests about two processes.
func TestMain(m *testing.M) {
	if role := os.Getenv("IDENTITY_TEST_HELPER"); role != "" {
		os.Exit(helper(role))
	}
	goleak.VerifyTestMain(m)
}
