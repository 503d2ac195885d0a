package candidates

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

func prefixes(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// TestFilterOne judges single candidates, as a host in 192.168.1.0/24 behind a
// NAT at 198.51.100.2 does.
func TestFilterOne(t *testing.T) {
	env := Env{
		Prefixes: prefixes("192.168.1.0/24", "fd00:1::/64", "2001:db8:1::/64"),
		Own:      []netip.AddrPort{ap("192.168.1.5:5000"), ap("198.51.100.2:5000")},
		Mapped:   []netip.Addr{netip.MustParseAddr("198.51.100.2")},
		Servers:  []netip.Addr{netip.MustParseAddr("10.9.9.9")},
	}
	for _, tt := range []struct {
		t    Type
		addr string
		why  string // "" for used
	}{
		{Host, "203.0.113.7:5000", ""},
		{Host, "[2001:db8:7::7]:5000", ""},
		{ServerReflexive, "198.51.100.2:5001", ""}, // same NAT, another port
		{Host, "192.168.1.7:5000", ""},             // neighbour
		{Host, "[fd00:1::7]:5000", ""},
		{Host, "[::ffff:192.168.1.7]:5000", ""}, // the same, canonicalised

		{Host, "192.168.1.5:5000", "our own address"},
		{ServerReflexive, "198.51.100.2:5000", "our own address"},
		{Host, "[::ffff:198.51.100.2]:5000", "our own address"},
		{Host, "192.168.2.7:5000", "private address of another network"},
		{Host, "10.0.0.7:5000", "private address of another network"},
		{Host, "172.17.0.2:5000", "private address of another network"},
		{Host, "100.64.0.7:5000", "private address of another network"},
		{Host, "198.18.0.7:5000", "private address of another network"},
		{Host, "[fd00:2::7]:5000", "private address of another network"},
		{PeerReflexive, "10.0.0.7:5000", "private address of another network"},
		{Relayed, "10.0.0.7:5000", "private address that is no relay we know"},
		{Relayed, "10.9.9.9:5000", ""},
		{Relayed, "203.0.113.7:5000", ""},

		{Host, "192.168.1.255:5000", "broadcast address"},
		{Host, "192.168.1.0:5000", "broadcast address"},
		{Host, "255.255.255.255:5000", "broadcast address"},
		{Host, "127.0.0.1:5000", "loopback address"},
		{Host, "127.9.9.9:5000", "loopback address"},
		{Host, "[::1]:5000", "loopback address"},
		{Host, "[::ffff:127.0.0.1]:5000", "loopback address"},
		{Relayed, "127.0.0.1:5000", "loopback address"},
		{Host, "0.0.0.0:5000", "unspecified address"},
		{Host, "[::]:5000", "unspecified address"},
		{Host, "0.0.0.7:5000", "this network (RFC 1122)"},
		{Host, "169.254.1.1:5000", "link-local address"},
		{Host, "169.254.169.254:8080", "metadata service"},
		{Host, "[fd00:ec2::254]:8080", "metadata service"},
		{Host, "168.63.129.16:32526", "metadata service"},
		{Host, "[fe80::1]:5000", "link-local address"},
		{Host, "224.0.0.251:5353", "multicast address"},
		{Host, "[ff02::1]:5000", "multicast address"},
		{Host, "240.0.0.1:5000", "reserved (RFC 1112)"},
		{Host, "192.0.0.192:5000", "protocol assignments (RFC 6890)"},
		{Host, "[::127.0.0.1]:5000", "IPv4 inside IPv6"},
		{Host, "[::ffff:0:127.0.0.1]:5000", "IPv4 inside IPv6"},
		{Host, "[64:ff9b::127.0.0.1]:5000", "IPv4 inside IPv6"},
		{Host, "[64:ff9b:1::a00:1]:5000", "IPv4 inside IPv6"},
		{Host, "[2002:7f00:1::1]:5000", "IPv4 inside IPv6"},
		{Host, "[2001:0:1:2:3:4:5:6]:5000", "IPv4 inside IPv6"},
		{Host, "[2001:db8:7::200:5efe:7f00:1]:5000", "IPv4 inside IPv6"},
		{Host, "[fec0::1]:5000", "site-local (RFC 3879)"},

		{Host, "203.0.113.7:53", "port below 1024"},
		{Host, "203.0.113.7:1023", "port below 1024"},
		{Host, "203.0.113.7:0", "candidate with port 0"},
		{"tcp", "203.0.113.7:5000", `candidate type "tcp" is unknown`},
	} {
		t.Run(fmt.Sprintf("%s %s", tt.t, tt.addr), func(t *testing.T) {
			direct, relayed, refused := Filter([]Candidate{{Type: tt.t, Addr: ap(tt.addr)}}, env)
			if tt.why != "" {
				if len(refused) != 1 || refused[0].Why != tt.why {
					t.Fatalf("direct %v, relayed %v, refused %v; want it refused: %s", direct, relayed, refused, tt.why)
				}
				return
			}
			used := direct
			if tt.t == Relayed {
				used = relayed
			}
			want := netip.AddrPortFrom(ap(tt.addr).Addr().Unmap(), ap(tt.addr).Port())
			if len(used) != 1 || used[0].Addr != want {
				t.Fatalf("direct %v, relayed %v, refused %v; want %s used", direct, relayed, refused, want)
			}
		})
	}
}

func TestFilterSameSite(t *testing.T) {
	env := Env{Prefixes: prefixes("10.1.0.0/24"), Mapped: []netip.Addr{netip.MustParseAddr("198.51.100.2")}}
	private := Candidate{Type: Host, Addr: ap("10.2.0.7:5000")}
	for _, tt := range []struct {
		name string
		list []Candidate
		used bool
	}{
		{"alone", []Candidate{private}, false},
		{"behind another NAT", []Candidate{private, {Type: ServerReflexive, Addr: ap("203.0.113.9:5000")}}, false},
		{"behind our NAT", []Candidate{private, {Type: ServerReflexive, Addr: ap("198.51.100.2:6000")}}, true},
		{"relay at our address proves nothing", []Candidate{private, {Type: Relayed, Addr: ap("198.51.100.2:6000")}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			direct, _, _ := Filter(tt.list, env)
			if got := slices.Contains(direct, private); got != tt.used {
				t.Fatalf("used %v, want %v", got, tt.used)
			}
		})
	}
	env.Loopback = true
	direct, _, _ := Filter([]Candidate{{Type: Host, Addr: ap("127.0.0.1:5000")}, {Type: Host, Addr: ap("169.254.169.254:5000")}}, env)
	if len(direct) != 1 {
		t.Fatalf("with Loopback: %v", direct)
	}
}

func TestFilterFamilies(t *testing.T) {
	list := []Candidate{{Type: Host, Addr: ap("203.0.113.1:5000")}, {Type: Host, Addr: ap("[2001:db8::1]:5000")}}
	if d, _, r := Filter(list, Env{NoIPv6: true}); len(d) != 1 || !d[0].Addr.Addr().Is4() || r[0].Why != "no IPv6 socket here" {
		t.Fatalf("without IPv6: %v, refused %v", d, r)
	}
	if d, _, r := Filter(list, Env{NoIPv4: true}); len(d) != 1 || !d[0].Addr.Addr().Is6() || r[0].Why != "no IPv4 socket here" {
		t.Fatalf("without IPv4: %v, refused %v", d, r)
	}
}

// TestFilterCaps gives a flood and looks at how much of it is left, and that
// what STUN saw is not crowded out by addresses in front of it.
func TestFilterCaps(t *testing.T) {
	var list []Candidate
	for i := range 18 {
		list = append(list, Candidate{Type: Host, Addr: ap(fmt.Sprintf("203.0.113.%d:5000", i+1))})
	}
	srflx := Candidate{Type: ServerReflexive, Addr: ap("198.51.100.9:5000")}
	list = append(list, srflx, srflx) // the 19th, and again
	for i := range 30 {
		list = append(list, Candidate{Type: Host, Addr: ap(fmt.Sprintf("203.0.113.%d:6000", i+1))})
	}
	direct, _, refused := Filter(list, Env{})
	if len(direct) != maxUsed || direct[0] != srflx {
		t.Fatalf("%d used, first %v", len(direct), direct[0])
	}
	if len(direct)+len(refused) != len(list) {
		t.Fatalf("%d used and %d refused of %d", len(direct), len(refused), len(list))
	}
	why := make(map[string]int)
	for _, r := range refused {
		why[r.Why]++
	}
	if why["named twice"] != 1 || why["too many candidates"] != 30+11 {
		t.Fatalf("refused: %v", why)
	}
}
