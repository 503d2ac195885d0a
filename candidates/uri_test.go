package candidates

import (
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want string // as String writes it
		err  string
	}{
		{in: "stun:stun.example.org", want: "stun:stun.example.org:3478"},
		{in: "stun:192.0.2.1:3479", want: "stun:192.0.2.1:3479"},
		{in: "STUN:[2001:db8::1]:3479", want: "stun:[2001:db8::1]:3479"},
		{in: "stun:[2001:db8::1]", want: "stun:[2001:db8::1]:3478"},
		{in: "turn:turn.example.org", want: "turn:turn.example.org:3478?transport=udp"},
		{in: "turn:turn.example.org:80?transport=tcp", want: "turn:turn.example.org:80?transport=tcp"},
		{in: "turns:turn.example.org", want: "turns:turn.example.org:5349"},
		{in: "turns:turn.example.org:443?transport=tcp", want: "turns:turn.example.org:443"},

		{in: "", err: "no scheme"},
		{in: "stun.example.org", err: "no scheme"},
		{in: "example.org:3478", err: "scheme \"example.org\""},
		{in: "http://example.org", err: "scheme \"http\""},
		{in: "stuns:example.org", err: "write stun:HOST"},
		{in: "stun://example.org", err: "write stun:example.org"},
		{in: "stun:", err: "no host"},
		{in: "stun::3478", err: "no host"},
		{in: "stun:example.org:", err: "colon without a port"},
		{in: "stun:example.org:0", err: "port \"0\""},
		{in: "stun:example.org:65536", err: "port \"65536\""},
		{in: "stun:example.org:x", err: "port \"x\""},
		{in: "stun:2001:db8::1", err: "needs brackets"},
		{in: "stun:[2001:db8::1", err: "bracket"},
		{in: "stun:[192.0.2.1]:3478", err: "no IPv6 address"},
		{in: "stun:[2001:db8::1]3478", err: "no port"},
		{in: "stun:exam ple.org", err: "no host name"},
		{in: "stun:example.org/x", err: "no host name"},
		{in: "stun:example.org?transport=udp", err: "takes no transport"},
		{in: "turn:me:secret@example.org", err: "credentials"},
		{in: "turn:example.org?transport=sctp", err: "not udp or tcp"},
		{in: "turn:example.org?ttl=3", err: "only ?transport="},
		{in: "turns:example.org?transport=udp", err: "DTLS"},
	} {
		t.Run(tt.in, func(t *testing.T) {
			u, err := ParseURI(tt.in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				if strings.Contains(err.Error(), "secret") {
					t.Fatalf("error repeats the password: %v", err)
				}
				return
			}
			if err != nil || u.String() != tt.want {
				t.Fatalf("%s, %v; want %s", u, err, tt.want)
			}
			if again, err := ParseURI(u.String()); err != nil || again != u {
				t.Fatalf("read back %+v, %v; want %+v", again, err, u)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	u, err := ParseURI("stun:192.0.2.1:3479")
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.Resolve(t.Context(), "ip4")
	if err != nil || len(got) != 1 || got[0] != ap("192.0.2.1:3479") {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err := u.Resolve(t.Context(), "ip6"); err == nil {
		t.Fatalf("an IPv4 address resolved to IPv6 %v", got)
	} else if !strings.Contains(err.Error(), "resolve stun:192.0.2.1:3479") {
		t.Fatalf("unhelpful error: %v", err)
	}
}

func TestTakeTurns(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lists [][]string
		most  int
		want  string
	}{
		{"none", nil, 8, ""},
		{"one list", [][]string{{"a", "b"}}, 8, "a b"},
		{"in turn", [][]string{{"a", "b", "c"}, {"x"}, {}, {"y", "z"}}, 8, "a x y b z c"},
		{"at most", [][]string{{"a", "b", "c"}, {"x", "y", "z"}}, 3, "a x b"},
		{"once each", [][]string{{"a", "b"}, {"a", "b", "c"}}, 8, "a b c"},
		{"no more", [][]string{{"a"}}, 0, ""},
	} {
		if got := strings.Join(TakeTurns(tt.lists, tt.most), " "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
