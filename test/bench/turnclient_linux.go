package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pion/turn/v3"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// A turnClient has an allocation on a TURN server. It does the requests that this
// takes and no more: a load is over before anything has to be refreshed.
type turnClient struct {
	conn               *net.UDPConn // connected to the server
	username, password string
	realm, nonce       string
	relayed            netip.AddrPort
}

// allocateTURN makes an allocation from a connected socket, for the bearer of the
// server's secret (the TURN REST credentials that coturn, pion/turn and we take).
// The server may still be starting.
func allocateTURN(conn *net.UDPConn, secret, user string) (*turnClient, error) {
	c := &turnClient{conn: conn}
	var err error
	if c.username, c.password, err = turn.GenerateLongTermTURNRESTCredentials(secret, user, time.Hour); err != nil {
		return nil, err
	}
	m, err := c.request("allocate", func() *stunmsg.Builder {
		return stunmsg.NewRequest(stunmsg.MethodAllocate).RequestedTransport(17)
	})
	if err != nil {
		return nil, err
	}
	var ok bool
	if c.relayed, ok = m.XORRelayed(); !ok {
		return nil, fmt.Errorf("allocate on %v: an answer without a relayed address", conn.RemoteAddr())
	}
	return c, nil
}

// bind gives a peer a channel, and the permission that it needs.
func (c *turnClient) bind(channel uint16, peer netip.AddrPort) error {
	_, err := c.request("bind a channel to "+peer.String(), func() *stunmsg.Builder {
		return stunmsg.NewRequest(stunmsg.MethodChannelBind).ChannelNumber(channel).XORPeerAddress(peer)
	})
	return err
}

// request sends a request until it is answered well, with credentials once the
// server has asked for them.
func (c *turnClient) request(what string, build func() *stunmsg.Builder) (*stunmsg.Message, error) {
	const challenges = 2 // the first one, and a nonce that went stale
	for n := 0; ; n++ {
		b := build()
		if c.nonce != "" {
			b.Username(c.username).Realm(c.realm).Nonce(c.nonce).Sign(stunmsg.LongTermKey(c.username, c.realm, c.password))
		}
		m, err := c.roundTrip(b)
		if err != nil {
			return nil, fmt.Errorf("%s on %v: %w", what, c.conn.RemoteAddr(), err)
		}
		code, reason, failed := m.ErrorCode()
		if !failed {
			return m, nil
		}
		if (code != 401 && code != 438) || n == challenges {
			return nil, fmt.Errorf("%s on %v: %d %s", what, c.conn.RemoteAddr(), code, reason)
		}
		c.nonce = m.Nonce()
		if r := m.Realm(); r != "" {
			c.realm = r
		}
	}
}

var errNoAnswer = errors.New("no answer")

// roundTrip sends a finished request until its answer comes.
func (c *turnClient) roundTrip(b *stunmsg.Builder) (*stunmsg.Message, error) {
	const again, tries = 100 * time.Millisecond, 50
	if err := b.Err(); err != nil {
		return nil, err
	}
	defer c.conn.SetReadDeadline(time.Time{})
	buf := make([]byte, 2048)
	last := errNoAnswer
	for range tries {
		next := time.Now().Add(again)
		c.conn.Write(b.Bytes()) // refused as long as the server is not up
		c.conn.SetReadDeadline(next)
		for {
			n, err := c.conn.Read(buf)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				break
			}
			if err != nil {
				last = err
				time.Sleep(time.Until(next))
				break
			}
			m, err := stunmsg.Decode(buf[:n])
			if err == nil && m.TransactionID == b.TransactionID() {
				return m, nil
			}
		}
	}
	return nil, last
}
