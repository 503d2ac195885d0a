package udpsock

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// A portableConn does with what package net has on every platform: one
// datagram per call.
type portableConn struct {
	*net.UDPConn
	kernelDrops

	// The time-to-live is a property of the socket here. Sends share mu; who
	// changes it holds it alone, so that no other datagram gets it.
	mu     sync.RWMutex
	ttl    func() (int, error)
	setTTL func(int) error
}

func newPortableConn(udp *net.UDPConn, network string, rc syscall.RawConn) conn {
	c := &portableConn{UDPConn: udp, kernelDrops: kernelDrops{rc: rc}}
	if network == "udp4" {
		p := ipv4.NewConn(udp)
		c.ttl, c.setTTL = p.TTL, p.SetTTL
	} else {
		p := ipv6.NewConn(udp)
		c.ttl, c.setTTL = p.HopLimit, p.SetHopLimit
	}
	return c
}

func (c *portableConn) read(b []byte) (n, seg int, src netip.AddrPort, err error) {
	n, src, err = c.ReadFromUDPAddrPort(b)
	return n, n, src, err
}

func (c *portableConn) write(b []byte, seg int, dst netip.AddrPort) error {
	if seg != 0 {
		return fmt.Errorf("cut into %d bytes: %w", seg, syscall.EINVAL)
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, err := c.WriteToUDPAddrPort(b, dst)
	return err
}

func (c *portableConn) writeTTL(b []byte, dst netip.AddrPort, ttl int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	usual, err := c.ttl()
	if err != nil {
		return err
	}
	if err := c.setTTL(ttl); err != nil {
		return err
	}
	_, err = c.WriteToUDPAddrPort(b, dst)
	return firstError(err, c.setTTL(usual))
}

func (c *portableConn) offload() (gso, gro bool) { return false, false }
