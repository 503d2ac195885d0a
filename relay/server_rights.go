package relay

import (
	"net/netip"
	"time"
)

// rights are what the client of an allocation may do, each until some time.
// The maps are made when there is something to put in.
type rights struct {
	permissions map[netip.Addr]time.Time
	channels    map[uint16]*channelBinding
	peers       map[netip.AddrPort]*channelBinding
}

// A channelBinding is a channel and its peer (RFC 8656 section 12). Data passes
// while there is also a permission for the peer, which binding gives as well.
type channelBinding struct {
	number uint16
	peer   netip.AddrPort
	until  time.Time
}

func (c *relayConn) lookupPeer(peer netip.AddrPort, now time.Time) (channel uint16, permitted bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !now.Before(c.rights.permissions[peer.Addr()]) {
		return 0, false
	}
	if b := c.rights.peers[peer]; b != nil && now.Before(b.until) {
		return b.number, true
	}
	return 0, true
}

// permitted tells whether the client may send to peer by an indication.
func (c *relayConn) permitted(peer netip.AddrPort, now time.Time) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return now.Before(c.rights.permissions[peer.Addr()])
}

func (c *relayConn) lookupChannel(number uint16, now time.Time) (peer netip.AddrPort, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.rights.channels[number]
	if b == nil || !now.Before(b.until) || !now.Before(c.rights.permissions[b.peer.Addr()]) {
		return peer, false
	}
	return b.peer, true
}

// room tells whether all of peers may have a permission, next to those there
// are.
func (c *relayConn) room(peers []netip.Addr, most int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, until := range c.rights.permissions {
		if !now.Before(until) {
			delete(c.rights.permissions, a)
		}
	}
	n := len(c.rights.permissions)
	for _, p := range peers {
		if _, ok := c.rights.permissions[p]; !ok {
			n++
		}
	}
	return n <= most
}

// roomChannel tells whether one more channel may be bound.
func (c *relayConn) roomChannel(number uint16, most int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, b := range c.rights.channels {
		if !now.Before(b.until) {
			delete(c.rights.channels, n)
			delete(c.rights.peers, b.peer)
		}
	}
	return c.rights.channels[number] != nil || len(c.rights.channels) < most
}

func (c *relayConn) permit(peers []netip.Addr, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range peers {
		c.permitLocked(p, now)
	}
}

func (c *relayConn) permitLocked(peer netip.Addr, now time.Time) {
	if c.rights.permissions == nil {
		c.rights.permissions = make(map[netip.Addr]time.Time)
	}
	c.rights.permissions[peer] = now.Add(permissionLifetime)
}

// bind enters a channel that pion has accepted.
func (c *relayConn) bind(number uint16, peer netip.AddrPort, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Whatever number or peer were bound to before has expired: pion refuses
	// a second binding of either.
	if old := c.rights.channels[number]; old != nil {
		delete(c.rights.peers, old.peer)
	}
	if old := c.rights.peers[peer]; old != nil {
		delete(c.rights.channels, old.number)
	}
	if c.rights.channels == nil {
		c.rights.channels = make(map[uint16]*channelBinding)
		c.rights.peers = make(map[netip.AddrPort]*channelBinding)
	}
	b := &channelBinding{number, peer, now.Add(channelLifetime)}
	c.rights.channels[number], c.rights.peers[peer] = b, b
	c.permitLocked(peer.Addr(), now)
}
