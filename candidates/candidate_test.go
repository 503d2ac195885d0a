package candidates

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestDecodeList(t *testing.T) {
	one := `{"type":"host","addr":"192.0.2.1:5000"}`
	for _, tt := range []struct {
		name, in string
		want     int
		err      string
	}{
		{name: "empty", in: `[]`},
		{name: "two", in: `[` + one + `,{"type":"srflx","addr":"[2001:db8::1]:5000"}]`, want: 2},
		{name: "type of a newer version", in: `[{"type":"tcp","addr":"192.0.2.1:5000"}]`, want: 1},
		{name: "field of a newer version", in: `[{"type":"host","addr":"192.0.2.1:5000","age":3}]`, want: 1},
		{name: "no array", in: one, err: "not a JSON array"},
		{name: "nothing", in: ``, err: "not a JSON array"},
		{name: "cut off", in: `[` + one, err: "candidate list"},
		{name: "address as number", in: `[{"type":"host","addr":5}]`, err: "candidate 1"},
		{name: "name for an address", in: `[` + one + `,{"type":"host","addr":"example.org:5000"}]`, err: "candidate 2"},
		{name: "second value", in: `[]{}`, err: "something after"},
		{name: "too many", in: `[` + strings.TrimSuffix(strings.Repeat(one+",", maxListEntries+1), ",") + `]`, err: "more than"},
		{name: "too long", in: `[` + strings.Repeat(" ", maxListBytes) + `]`, err: "bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := DecodeList([]byte(tt.in))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || len(got) != tt.want {
				t.Fatalf("%d candidates, %v; want %d", len(got), err, tt.want)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Candidate
		err  string
	}{
		{name: "good", c: Candidate{Type: Relayed, Addr: ap("192.0.2.1:5000")}},
		{name: "type", c: Candidate{Type: "tcp", Addr: ap("192.0.2.1:5000")}, err: "unknown"},
		{name: "no address", c: Candidate{Type: Host}, err: "without an address"},
		{name: "port", c: Candidate{Type: Host, Addr: ap("192.0.2.1:0")}, err: "port 0"},
		{name: "zone", c: Candidate{Type: Host, Addr: ap("[fe80::1%eth0]:5000")}, err: "zone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.c.Validate()
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// FuzzDecodeList shows that whatever a peer sends ends as an error or as a list
// within the caps, and that what Filter lets through of it is safe to send to.
func FuzzDecodeList(f *testing.F) {
	f.Add([]byte(`[{"type":"host","addr":"10.0.0.7:5000"},{"type":"srflx","addr":"198.51.100.2:5000"}]`))
	f.Add([]byte(`[{"type":"relay","addr":"203.0.113.7:49152"},{"type":"tcp","addr":"192.0.2.1:9"}]`))
	f.Add([]byte(`[{"type":"host","addr":"[::ffff:127.0.0.1]:5000"},{"type":"prflx","addr":"[64:ff9b::7f00:1]:5000"}]`))
	f.Add([]byte(`[{"type":"host","addr":"[fe80::1%25eth0]:5000"},{"type":"host","addr":"169.254.169.254:5000"}]`))
	f.Add([]byte(`[null,{},{"type":"host"}]`))
	env := Env{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := DecodeList(b)
		if err != nil {
			return
		}
		if len(list) > maxListEntries {
			t.Fatalf("%d entries", len(list))
		}
		direct, relayed, refused := Filter(list, env)
		if len(direct) > maxUsed || len(relayed) > maxUsed || len(direct)+len(relayed)+len(refused) != len(list) {
			t.Fatalf("%d candidates became %d direct, %d relayed, %d refused", len(list), len(direct), len(relayed), len(refused))
		}
		for _, c := range append(direct, relayed...) {
			a := c.Addr.Addr()
			if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.Is4In6() || c.Addr.Port() < 1024 {
				t.Fatalf("let %s through", c)
			}
		}
		if b, err := json.Marshal(direct); err != nil {
			t.Fatalf("%s: %v", b, err)
		} else if again, err := DecodeList(b); err != nil && len(direct) > 0 || len(again) != len(direct) {
			t.Fatalf("%s does not come back: %v", b, err)
		}
	})
}
