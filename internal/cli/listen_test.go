package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestListenAdvice(t *testing.T) {
	for _, tt := range []struct {
		err  error
		port int
		says string
	}{
		{errInUse, 80, "end the program that has it"},
		{errDenied, 80, "CAP_NET_BIND_SERVICE"},
		{errDenied, 8080, ""}, // some other rule of this machine
		{errNoAddress, 80, "no such address"},
		{errNoFamily, 8080, "no such address"},
		{errors.New("too many open files"), 80, ""},
	} {
		got := ListenAdvice(fmt.Errorf("listen: %w", tt.err), tt.port)
		if !strings.Contains(got, tt.says) || tt.says == "" && got != "" {
			t.Errorf("%v at port %d: %q, want %q", tt.err, tt.port, got, tt.says)
		}
	}
}
