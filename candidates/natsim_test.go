package candidates

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// simulation is a STUN server of RFC 5780 on four loopback addresses, seen
// through a NAT that exists only in what the server answers: the mapped address
// it reports, and the answers that it withholds as the NAT would. Mapped
// addresses are real sockets of the simulation, so that packets sent to them can
// come round.
type simulation struct {
	t    *testing.T
	nat  model
	conn [2][2]*net.UDPConn // by address and port
	wait sync.WaitGroup

	mu     sync.Mutex
	table  map[flow]*net.UDPConn               // guarded by mu: mappings, by what they depend on
	opened map[netip.AddrPort][]netip.AddrPort // guarded by mu: where each inner address has sent to
}

// model is the behaviour to simulate.
type model struct {
	none               bool // no translation
	mapping, filtering Dependence
	hairpin            bool
	blocked            bool // nothing passes
	single             bool // the server has one address and two ports, and says so
	refuse             bool // the server answers with an error
	deaf               bool // the server announces OTHER-ADDRESS but ignores CHANGE-REQUEST
}

type flow struct{ inner, outer netip.AddrPort }

// simulate starts a server behind a NAT; it ends with the test.
func simulate(t *testing.T, m model) *simulation {
	t.Helper()
	s := &simulation{t: t, nat: m, table: make(map[flow]*net.UDPConn), opened: make(map[netip.AddrPort][]netip.AddrPort)}
	s.bind()
	for i := range s.conn {
		for j := range s.conn[i] {
			s.wait.Go(func() { s.serve(i, j) })
		}
	}
	t.Cleanup(func() {
		for _, cs := range s.conn {
			cs[0].Close()
			cs[1].Close()
		}
		s.mu.Lock()
		for _, c := range s.table {
			c.Close()
		}
		s.mu.Unlock()
		s.wait.Wait()
	})
	return s
}

// bind takes two ports that are free on both addresses.
func (s *simulation) bind() {
	for range 100 {
		var got []*net.UDPConn
		listen := func(ip byte, port int) *net.UDPConn {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, ip), Port: port})
			if err != nil {
				return nil
			}
			got = append(got, c)
			return c
		}
		for j := range 2 {
			if s.conn[0][j] = listen(2, 0); s.conn[0][j] != nil {
				s.conn[1][j] = listen(3, int(s.addr(0, j).Port()))
			}
		}
		if len(got) == 4 {
			return
		}
		for _, c := range got {
			c.Close()
		}
	}
	s.t.Fatal("no two ports are free on 127.0.0.2 and 127.0.0.3")
}

func (s *simulation) addr(i, j int) netip.AddrPort {
	return s.conn[i][j].LocalAddr().(*net.UDPAddr).AddrPort()
}

// servers are the addresses that a user would have configured.
func (s *simulation) servers() []netip.AddrPort {
	switch {
	case s.nat.single:
		return []netip.AddrPort{s.addr(0, 0), s.addr(0, 1)}
	case s.nat.blocked: // one alone could be down
		return []netip.AddrPort{s.addr(0, 0), s.addr(1, 0)}
	}
	return []netip.AddrPort{s.addr(0, 0)}
}

func (s *simulation) serve(i, j int) {
	buf := make([]byte, 2048)
	for {
		n, inner, err := s.conn[i][j].ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if m, err := stunmsg.Decode(buf[:n]); err == nil && !s.nat.blocked {
			s.answer(m, inner, i, j)
		}
	}
}

func (s *simulation) answer(m *stunmsg.Message, inner netip.AddrPort, i, j int) {
	mapped := s.outbound(inner, s.addr(i, j))
	if s.nat.refuse {
		s.conn[i][j].WriteToUDPAddrPort(stunmsg.Error(m.Header, 500, "out of order").Bytes(), inner)
		return
	}
	changeIP, changePort, _ := m.ChangeRequest()
	if s.nat.deaf {
		changeIP, changePort = false, false
	}
	from := [2]int{i, j}
	if changeIP && !s.nat.single {
		from[0] = 1 - i
	}
	if changePort {
		from[1] = 1 - j
	}
	if !s.admits(inner, s.addr(from[0], from[1])) {
		return
	}
	r := stunmsg.Success(m.Header).XORMappedAddress(mapped)
	if !s.nat.single {
		r = r.OtherAddress(s.addr(1-i, 1-j))
	}
	s.conn[from[0]][from[1]].WriteToUDPAddrPort(r.Bytes(), inner)
}

// outbound is what the NAT does to a packet from inner to outer.
func (s *simulation) outbound(inner, outer netip.AddrPort) (mapped netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened[inner] = append(s.opened[inner], outer)
	if s.nat.none {
		return inner
	}
	key := flow{inner: inner}
	switch s.nat.mapping {
	case AddressDependent:
		key.outer = netip.AddrPortFrom(outer.Addr(), 0)
	case AddressAndPortDependent:
		key.outer = outer
	}
	c := s.table[key]
	if c == nil {
		c = s.external(inner)
		s.table[key] = c
	}
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// external opens the outer end of a mapping. With hairpinning, what is sent there
// comes to inner.
func (s *simulation) external(inner netip.AddrPort) *net.UDPConn {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 1, 1)})
	if err != nil {
		s.t.Error(err)
		return s.conn[0][0]
	}
	s.wait.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, _, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if s.nat.hairpin {
				c.WriteToUDPAddrPort(buf[:n], inner)
			}
		}
	})
	return c
}

// admits says whether the NAT lets a packet from outer to inner in.
func (s *simulation) admits(inner, outer netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.opened[inner] {
		switch {
		case s.nat.filtering == EndpointIndependent,
			s.nat.filtering == AddressDependent && o.Addr() == outer.Addr(),
			o == outer:
			return true
		}
	}
	return false
}
