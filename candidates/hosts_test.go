package candidates

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestHostCandidates(t *testing.T) {
	on := func(iface, prefix string) ifaceAddr { return onIface(iface, prefix, false) }
	ifaces := []ifaceAddr{
		on("docker0", "172.17.0.1/16"), on("br-12ab", "172.18.0.1/16"),
		on("wlan0", "192.168.1.5/24"), on("wlan0", "2001:db8::5/64"), on("eth0", "10.0.0.5/24"),
	}
	var many []ifaceAddr
	for i := range 20 {
		many = append(many, on(fmt.Sprintf("veth%d", i), fmt.Sprintf("172.20.%d.1/24", i)))
	}
	many = append(many, on("eth0", "10.0.0.5/24"))
	primary := netip.MustParseAddr("10.0.0.5")

	for _, tt := range []struct {
		name  string
		local string
		addrs []ifaceAddr
		want  []string
	}{
		{"bound", "10.0.0.5:5000", ifaces, []string{"10.0.0.5:5000"}},
		{"bound to loopback", "127.0.0.1:5000", ifaces, []string{"127.0.0.1:5000"}},
		{"wildcard", "0.0.0.0:5000", ifaces, []string{"10.0.0.5:5000", "192.168.1.5:5000", "172.17.0.1:5000", "172.18.0.1:5000"}},
		{"wildcard IPv6", "[::]:5000", ifaces, []string{"[2001:db8::5]:5000"}},
		{"many bridges", "0.0.0.0:5000", many, []string{"10.0.0.5:5000", "172.20.0.1:5000", "172.20.1.1:5000",
			"172.20.2.1:5000", "172.20.3.1:5000", "172.20.4.1:5000"}},
		{"offline", "0.0.0.0:5000", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := hostCandidates(ap(tt.local), tt.addrs, primary)
			if len(got) != len(tt.want) {
				t.Fatalf("%v, want %v", got, tt.want)
			}
			for i, c := range got {
				if c.Type != Host || c.Addr != ap(tt.want[i]) {
					t.Fatalf("%v, want %v", got, tt.want)
				}
			}
		})
	}
}

func TestLocalEnv(t *testing.T) {
	e, err := LocalEnv()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range e.Prefixes {
		if p != p.Masked() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			t.Errorf("prefix %s", p)
		}
	}
}
