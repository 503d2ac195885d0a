package relay

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// deniedPeers has an address, mostly the first and the last, of every row of
// the deny matrix, and the loopback, private and metadata addresses in every
// spelling that IPv6 has for them.
var deniedPeers = []string{
	"0.0.0.0", "0.0.0.1", "0.255.255.255",
	"10.0.0.0", "10.255.255.255",
	"100.64.0.0", "100.127.255.255",
	"127.0.0.1", "127.255.255.255",
	"169.254.0.1", "169.254.169.254",
	"172.16.0.0", "172.31.255.255",
	"192.0.0.1", "192.0.0.255",
	"192.0.2.1",
	"192.31.196.1",
	"192.52.193.1",
	"192.88.99.1",
	"192.168.0.0", "192.168.255.255",
	"192.175.48.1",
	"198.18.0.0", "198.19.255.255",
	"198.51.100.1",
	"203.0.113.1",
	"224.0.0.1", "239.255.255.255",
	"240.0.0.1", "255.255.255.255",

	"::", "::1",
	"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0", "::ffff:203.0.113.9",
	"::127.0.0.1", "::10.0.0.1", "::169.254.169.254",
	"::ffff:0:127.0.0.1", "::ffff:0:192.168.0.1",
	"64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe",
	"64:ff9b:1::127.0.0.1", "64:ff9b:1:7f00:0:100::",
	"2002:7f00:1::", "2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:c0a8:1::1",
	"2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
	"2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff:ffff::",
	"2001:db8::1",
	"3fff::1",
	"5f00::1",
	"100::1",
	"fc00::1", "fd00:ec2::254",
	"fe80::1", "febf::1", "fec0::1",
	"ff02::1", "ff0e::1",
	"2606:4700::5efe:127.0.0.1", "2606:4700::200:5efe:192.168.0.1", // ISATAP
}

var allowedPeers = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
	"128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.1", "192.0.3.1", "192.167.255.255",
	"198.17.255.255", "198.20.0.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
	"2606:4700::1111", "2a00:1450::1", "2001:200::1", "2606:4700::5efe:8.8.8.8",
}

func never(uint16) bool { return false }

func TestDenyMatrix(t *testing.T) {
	p := &Policy{Own: []netip.Addr{netip.MustParseAddr("8.8.4.4")}, Relay: netip.MustParseAddr("9.9.9.9")}
	for _, s := range append(deniedPeers, "fe80::1%eth0", "2606:4700::1%eth0", "8.8.4.4", "::ffff:8.8.4.4", "2002:808:404::") {
		a := netip.MustParseAddr(s)
		var d *Denial
		if err := p.CheckAddr(a); !errors.As(err, &d) || d.Why == "" {
			t.Errorf("permission for %s: %v", s, err)
		}
		if err := p.Check(netip.AddrPortFrom(a, 40000), never); !errors.As(err, &d) {
			t.Errorf("packet to %s: %v", s, err)
		}
	}
	for _, s := range allowedPeers {
		a := netip.MustParseAddr(s)
		if err := p.CheckAddr(a); err != nil {
			t.Error(err)
		}
		if err := p.Check(netip.AddrPortFrom(a, 40000), never); err != nil {
			t.Error(err)
		}
		if err := p.Check(netip.AddrPortFrom(a, 0), never); err == nil {
			t.Errorf("port 0 of %s allowed", s)
		}
	}
}

func TestRelaysOwnAddress(t *testing.T) {
	relay := netip.MustParseAddr("203.0.113.1")
	p := &Policy{Own: []netip.Addr{relay}, Relay: relay}
	live := func(port uint16) bool { return port == 50000 }
	if err := p.CheckAddr(relay); err != nil {
		t.Error(err)
	}
	if err := p.Check(netip.AddrPortFrom(relay, 50000), live); err != nil {
		t.Error(err)
	}
	for _, bad := range []netip.AddrPort{
		netip.AddrPortFrom(relay, 50001),
		netip.AddrPortFrom(relay, 3478),
		netip.AddrPortFrom(relay, 0),
		netip.MustParseAddrPort("[::ffff:203.0.113.1]:50000"),
	} {
		if err := p.Check(bad, live); err == nil {
			t.Errorf("%v allowed", bad)
		}
	}
}

func TestAllowOpensOneRange(t *testing.T) {
	p := &Policy{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("64:ff9b::/96")}}
	for s, want := range map[string]bool{
		"10.1.2.3":           true,
		"10.2.0.1":           false,
		"127.0.0.1":          false,
		"::ffff:10.1.2.3":    false, // spelled to get past somebody
		"64:ff9b::8.8.8.8":   true,
		"64:ff9b::127.0.0.1": false, // opening NAT64 does not open what is behind it
		"64:ff9b::10.1.2.3":  true,
	} {
		if got := p.CheckAddr(netip.MustParseAddr(s)) == nil; got != want {
			t.Errorf("%s allowed: %v, want %v", s, got, want)
		}
	}
}

func TestParseAllow(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8":      "10.0.0.0/8",
		"203.0.113.77/24": "203.0.113.0/24",
		"192.168.1.7":     "192.168.1.7/32",
		"fd00::/8":        "fd00::/8",
		"0.0.0.0/0":       "",
		"10.1.2.3/0":      "",
		"::/0":            "",
		"::ffff:0:0/96":   "",
		"lab":             "",
		"":                "",
	} {
		p, err := ParseAllow(in)
		if (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("ParseAllow(%q) = %v, %v, want %q", in, p, err, want)
		}
	}
}

// rawPeer appends XOR-PEER-ADDRESS as the address is spelled: IPv4-mapped
// stays IPv6.
func rawPeer(b *stunmsg.Builder, a netip.Addr, port uint16) {
	mask := binary.BigEndian.AppendUint32(nil, stunmsg.Cookie)
	id := b.TransactionID()
	mask = append(mask, id[:]...)
	family := byte(2)
	if a.Is4() {
		family = 1
	}
	v := binary.BigEndian.AppendUint16([]byte{0, family}, port^binary.BigEndian.Uint16(mask))
	for i, x := range a.AsSlice() {
		v = append(v, x^mask[i])
	}
	b.Attr(stunmsg.AttrXORPeerAddress, v)
}

// Every denied peer, over the wire: 403 on CreatePermission and ChannelBind,
// and nothing for a Send indication.
func TestDeniedPeersGet403(t *testing.T) {
	cfg := labConfig()
	cfg.Allow = nil
	s := startServer(t, cfg)
	c := dialTURN(t, s, "udp", "u")
	c.allocate()
	conn := s.ledger.atPort(s.onlyRelayPort())
	for _, text := range deniedPeers {
		a := netip.MustParseAddr(text)
		if a.Unmap() == s.cfg.PublicIP {
			continue // judged by port: TestOwnAddressAtDeadPort
		}
		wantCode(t, c.request(stunmsg.MethodCreatePermission, func(b *stunmsg.Builder) { rawPeer(b, a, 40000) }), codeForbidden)
		wantCode(t, c.request(stunmsg.MethodChannelBind, func(b *stunmsg.Builder) {
			b.ChannelNumber(0x4000)
			rawPeer(b, a, 40000)
		}), codeForbidden)

		before := s.count.drops[dropNoPermission].Load()
		b := stunmsg.NewIndication(stunmsg.MethodSend)
		rawPeer(b, a, 40000)
		c.write(b.Data([]byte("x")).Bytes())
		waitFor(t, "Send to "+text+" to be dropped", func() bool { return s.count.drops[dropNoPermission].Load() == before+1 })

		// And if a permission were there all the same, the way out is shut.
		before = s.count.drops[dropDenied].Load()
		conn.toPeer([]byte("x"), 1, netip.AddrPortFrom(a, 40000))
		if s.count.drops[dropDenied].Load() != before+1 {
			t.Errorf("packet to %s was not denied", text)
		}
	}
	wantCode(t, c.bind(0x4000, netip.AddrPortFrom(loopback, 40000)), codeForbidden)
	if st := s.Stats(); st.Relay.ClientToPeerPackets != 0 || st.Refused[codeForbidden] == 0 {
		t.Errorf("stats %+v", st)
	}
}

// onlyRelayPort is the port of the one allocation there is.
func (s *Server) onlyRelayPort() uint16 {
	s.ledger.mu.RLock()
	defer s.ledger.mu.RUnlock()
	for port := range s.ledger.byPort {
		return port
	}
	return 0
}
