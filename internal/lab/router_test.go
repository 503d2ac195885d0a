package lab

import (
	"net/netip"
	"strings"
	"testing"
)

func TestRouterFromFlags(t *testing.T) {
	machine := []attachment{
		{"lo", addrs("127.0.0.1/8")},
		{"eth0", addrs("198.51.100.2/24", "fe80::1/64")},
		{"eth1", addrs("fe80::2/64", "10.1.0.1/24")},
		{"eth2", addrs("10.9.0.5/24")},
	}
	for _, tt := range []struct {
		lan, wan, host string
		want           string // lan wan host, or what the error says
	}{
		{"eth1", "eth0", "", "eth1 eth0 10.1.0.2"},
		{"10.1.0.0/24", "198.51.100.0/24", "", "eth1 eth0 10.1.0.2"},
		{"eth2", "eth0", "", "eth2 eth0 10.9.0.1"},
		{"eth2", "eth0", "10.9.0.77", "eth2 eth0 10.9.0.77"},
		{"eth1", "eth9", "", "wan: no interface is eth9"},
		{"172.16.0.0/12", "eth0", "", "lan: no interface is 172.16.0.0/12"},
		{"eth0", "198.51.100.0/24", "", "both eth0"},
		{"lo", "eth0", "", "lo eth0 127.0.0.2"},
	} {
		c := RouterConfig{LAN: tt.lan, WAN: tt.wan}
		if tt.host != "" {
			c.Host = netip.MustParseAddr(tt.host)
		}
		r, err := c.router(machine)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = r.LAN + " " + r.WAN + " " + r.Hosts[0].Addr.String()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("lan %s, wan %s, host %s: %s, want %s", tt.lan, tt.wan, tt.host, got, tt.want)
		}
	}
}

func TestForeignRules(t *testing.T) {
	if err := foreignRules("-P FORWARD DROP\n-N DOCKER\n"); err != nil {
		t.Errorf("policies and chains alone: %v", err)
	}
	if err := foreignRules("-P FORWARD DROP\n-A FORWARD -j DOCKER\n"); err == nil || err.Error() != "-A FORWARD -j DOCKER" {
		t.Errorf("a rule: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		argv []string
		want string
	}{
		{[]string{"ip", "link", "set", "lo", "up"}, "ip link set lo up"},
		{[]string{"nft", "add", "{ a; }"}, "nft add '{ a; }'"},
		{[]string{"echo", "it's", ""}, `echo 'it'\''s' ''`},
	} {
		if got := commandLine(tt.argv); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}
