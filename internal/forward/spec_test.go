package forward

import (
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	for _, tt := range []struct{ in, bind, target, err string }{
		{"8080:localhost:80", "localhost:8080", "localhost:80", ""},
		{"0.0.0.0:8080:10.0.0.1:80", "0.0.0.0:8080", "10.0.0.1:80", ""},
		{"*:8080:web:80", ":8080", "web:80", ""},
		{":8080:web:80", ":8080", "web:80", ""},
		{"localhost:8080:web:80", "localhost:8080", "web:80", ""},
		{"[::1]:8080:[2001:db8::1]:80", "[::1]:8080", "[2001:db8::1]:80", ""},
		{"0:localhost:22", "localhost:0", "localhost:22", ""},
		{"8080", "", "", "it has no target"},
		{"8080:80", "", "", "it lacks the port to listen on, or the target's host or port"},
		{"a:b:c:d:e", "", "", "too many colons"},
		{"2223:::1:22", "", "", "stands in brackets, for example [::1]"},
		{"::1:2223:localhost:22", "", "", "stands in brackets"},
		{"x:localhost:80", "", "", `"x" is not a port`},
		{"8080:localhost:0", "", "", "target port"},
		{"8080:localhost:99999", "", "", "target port"},
		{"8080::80", "", "", "no target host"},
		{"[::1:8080:a:1", "", "", "a [ without ]"},
		{"[::1]x:8080:a:1", "", "", "after ]"},
		{"", "", "", "it has no target"},
	} {
		spec, err := ParseSpec(tt.in)
		if tt.err == "" {
			if err != nil || spec.Bind != tt.bind || spec.Target != tt.target {
				t.Errorf("%q: %+v %v, want %s %s", tt.in, spec, err, tt.bind, tt.target)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "for example") {
			t.Errorf("%q: %v, want an error with %q and an example", tt.in, err, tt.err)
		}
	}
}
