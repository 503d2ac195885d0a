package forward

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/trace"
)

// names is a Resolver over a table.
type names map[string][]netip.Addr

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := n[strings.ToLower(host)]; ok {
		return a, nil
	}
	return nil, fmt.Errorf("no such host")
}

// listOf makes a list and looks its names up until the test ends.
func listOf(t *testing.T, r Resolver, entries ...string) *AllowList {
	t.Helper()
	list, err := ParseAllow(r, entries)
	if err != nil {
		t.Fatal(err)
	}
	watching(t, list, nil)
	return list
}

func watching(t *testing.T, list *AllowList, rec *trace.Recorder) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); list.Watch(ctx, rec) }()
	t.Cleanup(func() { cancel(); <-ended })
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

var hosts = names{
	"web":  addrs("10.0.0.5"),
	"evil": addrs("169.254.169.254"),
	"half": addrs("169.254.169.254", "10.0.0.6"),
}

func TestDialable(t *testing.T) {
	for _, tt := range []struct {
		name, allow, target string
		want                string // addresses, or "" for refused
	}{
		{"nothing is allowed by default", "", "127.0.0.1:22", ""},
		{"name", "localhost:22", "localhost:22", "127.0.0.1:22 [::1]:22"},
		{"name, other case", "localhost:22", "LocalHost:22", "127.0.0.1:22 [::1]:22"},
		{"address of an allowed name", "localhost:22", "127.0.0.1:22", "127.0.0.1:22"},
		{"same address in another spelling", "127.0.0.1:22", "[::ffff:127.0.0.1]:22", "127.0.0.1:22"},
		{"other port", "localhost:22", "localhost:23", ""},
		{"name that is not listed is never resolved", "127.0.0.1:22", "localhost:22", ""},
		{"range, low end", "web:8000-8010", "web:8000", "10.0.0.5:8000"},
		{"range, top end", "web:8000-8010", "web:8010", "10.0.0.5:8010"},
		{"range, above", "web:8000-8010", "web:8011", ""},
		{"every port", "web:*", "10.0.0.5:1", "10.0.0.5:1"},
		{"prefix", "10.0.0.0/24:22", "10.0.0.77:22", "10.0.0.77:22"},
		{"outside of the prefix", "10.0.0.0/24:22", "10.0.1.77:22", ""},
		{"IPv6", "[2001:db8::1]:22", "[2001:db8::1]:22", "[2001:db8::1]:22"},
		{"metadata through a name", "evil:80", "evil:80", ""},
		{"metadata beside an address", "half:80", "half:80", "10.0.0.6:80"},
		{"metadata of an allowed name", "half:80", "169.254.169.254:80", ""},
		{"metadata by another road", "[64:ff9b::/96]:80", "[64:ff9b::a9fe:a9fe]:80", ""},
		{"a name twice on the list, for two ports", "web:80 web:443", "web:443", "10.0.0.5:443"},
		{"metadata through a prefix", "169.254.0.0/16:80", "169.254.169.254:80", ""},
		{"unspecified", "0.0.0.0/1:80", "0.0.0.0:80", ""},
		{"no port", "localhost:22", "localhost", ""},
		{"port 0", "localhost:*", "localhost:0", ""},
		{"port not a number", "localhost:*", "localhost:ssh", ""},
		{"empty", "localhost:*", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := listOf(t, hosts, strings.Fields(tt.allow)...)
			for _, p := range list.names {
				list.fresh(t.Context(), p) // waits for the first lookup
			}
			got, err := list.Dialable(t.Context(), tt.target)
			if spaced(got) != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %v %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestListenable(t *testing.T) {
	for _, tt := range []struct{ name, allow, bind, want string }{
		{"nothing by default", "", "127.0.0.1:8080", ""},
		{"a dial entry is no listen entry", "127.0.0.1:8080", "127.0.0.1:8080", ""},
		{"both loopbacks", "listen:8080", "localhost:8080", "127.0.0.1:8080 [::1]:8080"},
		{"one loopback", "listen:8080", "127.0.0.1:8080", "127.0.0.1:8080"},
		{"the other one", "listen:8080", "[::1]:8080", "[::1]:8080"},
		{"loopback written out", "listen:localhost:8080", "localhost:8080", "127.0.0.1:8080 [::1]:8080"},
		{"both asked for, one allowed", "listen:127.0.0.1:8080", "localhost:8080", "127.0.0.1:8080"},
		{"loopback rule is for loopback", "listen:8080", "0.0.0.0:8080", ""},
		{"every address is asked for as empty", "listen:8080", ":8080", ""},
		{"every address", "listen:*:8080", ":8080", "0.0.0.0:8080 [::]:8080"},
		{"every address of IPv4", "listen:*:8080", "0.0.0.0:8080", "0.0.0.0:8080"},
		{"every address asked for, those of IPv4 allowed", "listen:0.0.0.0:8080", ":8080", "0.0.0.0:8080"},
		{"one address", "listen:10.0.0.1:8080", "10.0.0.1:8080", "10.0.0.1:8080"},
		{"the same in another spelling", "listen:10.0.0.1:8080", "[::ffff:10.0.0.1]:8080", "10.0.0.1:8080"},
		{"other address", "listen:10.0.0.1:8080", "10.0.0.2:8080", ""},
		{"range", "listen:8000-8100", "127.0.0.1:8050", "127.0.0.1:8050"},
		{"other port", "listen:8000-8100", "127.0.0.1:8101", ""},
		{"a name", "listen:*:8080", "web:8080", ""},
		{"no port", "listen:*:8080", "localhost", ""},
		{"no port that can be", "listen:*:8080", "localhost:99999", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := listOf(t, hosts, strings.Fields(tt.allow)...)
			got, err := list.Listenable(tt.bind)
			if (err == nil) != (tt.want != "") || spaced(got) != tt.want {
				t.Errorf("got %v %v, want %q", got, err, tt.want)
			}
		})
	}
}

// The entry that a refusal names is one, and opens what was refused.
func TestListenableSaysWhatItNeeds(t *testing.T) {
	for _, bind := range []string{"localhost:8080", ":8080", "10.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080"} {
		_, err := new(AllowList).Listenable(bind)
		if err == nil {
			t.Errorf("%s is allowed by nothing", bind)
			continue
		}
		_, entry, _ := strings.Cut(err.Error(), "needs --allow ")
		list, err := ParseAllow(hosts, []string{entry})
		if err != nil {
			t.Errorf("%s: %v", bind, err)
			continue
		}
		if got, err := list.Listenable(bind); err != nil {
			t.Errorf("%s with --allow %s: %v %v", bind, entry, got, err)
		}
	}
}

func spaced[T fmt.Stringer](list []T) string {
	var texts []string
	for _, v := range list {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, " ")
}

func TestParseAllowErrors(t *testing.T) {
	for in, want := range map[string]string{
		"localhost":             "no port",
		"*:22":                  "every host",
		":22":                   "every host",
		"0.0.0.0/0:22":          "every host",
		"localhost:0":           "not a port",
		"localhost:70000":       "not a port",
		"localhost:90-80":       "backwards",
		"http://web.home":       "write HOST:PORT, for example web.home:80",
		"https://[::1]/x":       "write HOST:PORT, for example [::1]:443",
		"http://web.home:8080/": "write HOST:PORT, for example web.home:8080",
		"x://y":                 "a URL; write HOST:PORT",
		"10.0.0.0/33:22":        `"10.0.0.0/33" is not a prefix`,
		"10.0.0.300:22":         `"10.0.0.300" is not an address`,
		"::1":                   `write IPv6 as [2001:db8::1]:22`,
		"user@web:22":           `"user@web" is not the name of a host`,
		"we b:22":               `"we b" is not the name of a host`,
		"web..home:22":          `"web..home" is not the name of a host`,
		"a,b:22":                `"a,b" is not the name of a host`,
		"listen:web:8080":       "not an address",
		"listen:x":              "not a port",
		"listen:0.0.0.0/0:80":   "not an address",
	} {
		if _, err := ParseAllow(hosts, []string{in}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), in) {
			t.Errorf("%q: %v, want an error that names it and says %q", in, err, want)
		}
	}
}
