package candidates

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

// tunnelled are tunnels with routes that a test gives: destination → source.
func tunnelled(addrs []ifaceAddr, routes map[string]string) Tunnels {
	t := tunnelsOf(addrs)
	t.source = func(dst netip.Addr) netip.Addr {
		if src, ok := routes[dst.String()]; ok {
			return netip.MustParseAddr(src)
		}
		return netip.Addr{}
	}
	return t
}

func onIface(iface, prefix string, tunnel bool) ifaceAddr {
	return ifaceAddr{Iface: iface, Prefix: netip.MustParsePrefix(prefix), Tunnel: tunnel}
}

func TestTunnelsTo(t *testing.T) {
	addrs := []ifaceAddr{onIface("eth0", "192.168.1.5/24", false), onIface("wg0", "10.99.0.1/24", true), onIface("wg0", "fd99::1/64", true)}
	routes := map[string]string{"203.0.113.7": "192.168.1.5", "10.99.0.2": "10.99.0.1", "fd99::2": "fd99::1", "198.51.100.9": "10.99.0.1"}
	for _, tt := range []struct {
		dst, want string
	}{
		{"203.0.113.7", ""},
		{"10.99.0.2", "wg0"},
		{"fd99::2", "wg0"},
		{"198.51.100.9", "wg0"}, // a route that says so, whatever the prefixes are
		{"192.0.2.1", ""},       // no route at all
	} {
		if got := tunnelled(addrs, routes).To(netip.MustParseAddr(tt.dst)); got != tt.want {
			t.Errorf("to %s: %q, want %q", tt.dst, got, tt.want)
		}
	}
	asked := tunnelled(addrs[:1], nil)
	asked.source = func(netip.Addr) netip.Addr { t.Error("routes are looked up without a tunnel"); return netip.Addr{} }
	if got := asked.To(netip.MustParseAddr("10.99.0.2")); got != "" {
		t.Errorf("without a tunnel: %q", got)
	}
	if got := (Tunnels{}).To(netip.MustParseAddr("10.99.0.2")); got != "" {
		t.Errorf("zero value: %q", got)
	}
}

func TestTunnelByName(t *testing.T) {
	const usual = net.FlagUp | net.FlagBroadcast | net.FlagMulticast
	for _, tt := range []struct {
		name  string
		flags net.Flags
		want  bool
	}{
		{"en0", usual, false},
		{"eth0", usual, false},
		{"Wi-Fi", usual, false},
		{"bridge100", usual, false},
		{"lo0", net.FlagUp | net.FlagLoopback, false},
		{"utun4", net.FlagUp | net.FlagPointToPoint | net.FlagMulticast, true},
		{"dsl", net.FlagUp | net.FlagPointToPoint, true},
		{"tap0", usual, true},
		{"feth1234", usual, true},
		{"zt5u4uptmb", usual, true},
		{"Tailscale", usual, true},
		{"ZeroTier One [8056c2e21c000001]", usual, true},
		{"OpenVPN TAP-Windows6", usual, true},
		{"ProtonVPN TUN", usual, true},
		{"Corporate VPN", usual, true},
	} {
		if got := tunnelByName(net.Interface{Name: tt.name, Flags: tt.flags}); got != tt.want {
			t.Errorf("%s (%v): %v, want %v", tt.name, tt.flags, got, tt.want)
		}
	}
}

// A tunnel's address is announced behind all others, and as what it is: also
// when the default route goes through it.
func TestHostCandidatesInTunnels(t *testing.T) {
	addrs := []ifaceAddr{onIface("wg0", "10.99.0.1/24", true), onIface("docker0", "172.17.0.1/16", false), onIface("eth0", "10.1.0.2/24", false)}
	want := []Candidate{
		{Type: Host, Addr: ap("10.1.0.2:5000")},
		{Type: Host, Addr: ap("172.17.0.1:5000")},
		{Type: Host, Addr: ap("10.99.0.1:5000"), Tunnel: true},
	}
	for _, primary := range []string{"10.1.0.2", "10.99.0.1"} {
		if got := hostCandidates(ap("0.0.0.0:5000"), addrs, netip.MustParseAddr(primary)); !slices.Equal(got, want) {
			t.Errorf("primary %s: %v, want %v", primary, got, want)
		}
	}
	if got := hostCandidates(ap("10.99.0.1:5000"), addrs, netip.Addr{}); !slices.Equal(got, want[2:]) {
		t.Errorf("bound there: %v", got)
	}
}

// The peer's candidates in tunnels come last: those that it marks, and those
// that our routes lead through one.
func TestFilterTunnels(t *testing.T) {
	addrs := []ifaceAddr{onIface("eth0", "10.1.0.2/24", false), onIface("wg0", "10.99.0.1/24", true)}
	env := Env{
		Prefixes: prefixes("10.1.0.0/24", "10.99.0.0/24"),
		Tunnels:  tunnelled(addrs, map[string]string{"10.99.0.2": "10.99.0.1", "203.0.113.2": "10.1.0.2", "10.1.0.3": "10.1.0.2"}),
	}
	got, _, refused := Filter([]Candidate{
		{Type: Host, Addr: ap("10.99.0.2:5000")},
		{Type: Host, Addr: ap("10.1.0.3:5000"), Tunnel: true},
		{Type: ServerReflexive, Addr: ap("203.0.113.2:5000")},
	}, env)
	want := []Candidate{
		{Type: ServerReflexive, Addr: ap("203.0.113.2:5000")},
		{Type: Host, Addr: ap("10.99.0.2:5000"), Tunnel: true},
		{Type: Host, Addr: ap("10.1.0.3:5000"), Tunnel: true},
	}
	if !slices.Equal(got, want) || len(refused) != 0 {
		t.Errorf("%v, refused %v; want %v", got, refused, want)
	}
}
