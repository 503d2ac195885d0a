package udpsock

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/p2pagent/p2pagent/internal/trace"
)

func TestListenRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		c    Config
		want string
	}{
		"no network":       {Config{}, `network ""`},
		"both families":    {Config{Network: "udp"}, `network "udp"`},
		"wrong family":     {Config{Network: "udp4", Addr: netip.MustParseAddrPort("[::1]:0")}, "not for udp4"},
		"wrong family too": {Config{Network: "udp6", Addr: netip.MustParseAddrPort("127.0.0.1:0")}, "not for udp6"},
		"negative buffer":  {Config{Network: "udp4", BufferBytes: -1}, "-1 bytes"},
		"foreign address":  {Config{Network: "udp4", Addr: netip.MustParseAddrPort("192.0.2.1:0")}, "192.0.2.1"},
	} {
		s, err := Listen(tt.c)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Listen = %v, want %q", name, err, tt.want)
		}
	}
}

func TestListenAnywhere(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		var opened []trace.Record
		rec := trace.New("a", trace.SinkFunc(func(r trace.Record) { opened = append(opened, r) }))
		s := m.listen(t, func(c *Config) {
			c.Addr, c.Trace = netip.AddrPort{}, rec
		})
		if a := s.LocalAddr(); !a.Addr().IsUnspecified() || a.Port() == 0 || a.Addr().Is4() != (m.network == "udp4") {
			t.Errorf("bound to %v", a)
		}
		if s.Network() != m.network {
			t.Errorf("network %q", s.Network())
		}
		gso, gro := s.Offload()
		want := trace.SocketOpened{Network: m.network, Local: s.LocalAddr(), GSO: gso, GRO: gro}
		if len(opened) != 1 || opened[0].Event != want {
			t.Errorf("recorded %+v, want %+v", opened, want)
		}
		if _, err := s.SyscallConn(); err != nil {
			t.Error(err)
		}
	})
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"[::ffff:192.0.2.1]:7": "192.0.2.1:7",
		"192.0.2.1:7":          "192.0.2.1:7",
		"[fe80::1%eth0]:7":     "[fe80::1%eth0]:7",
		"[2001:db8::1%eth0]:7": "[2001:db8::1]:7",
	} {
		if got := canonical(netip.MustParseAddrPort(in)); got.String() != want {
			t.Errorf("canonical(%s) = %v, want %s", in, got, want)
		}
	}
}
