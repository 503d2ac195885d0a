package relay

import (
	"slices"
	"sync/atomic"
	"time"
)

// Stats are the counters of a [Server], as `signal --admin` prints them.
type Stats struct {
	Allocations      int       `json:"allocations"`       // live
	AllocationsTotal int64     `json:"allocations_total"` // ever made
	Streams          int       `json:"streams"`           // TCP and TLS connections
	Relay            LegStats  `json:"relay"`
	STUN             int64     `json:"stun_answers"` // Binding requests answered
	Denied           int64     `json:"denied"`       // refused by the peer policy: requests, and packets
	Refused          CodeCount `json:"refused"`      // error responses sent, by STUN error code
	Dropped          DropCount `json:"dropped"`      // what was not relayed or not answered, by reason
}

// LegStats counts payload only, without ChannelData headers and indications. In
// are what came with a channel or a permission, out what was handed to the
// kernel (or to the other allocation); the difference was dropped. The first
// four are those out, by their older names.
type LegStats struct {
	ClientToPeerBytes   int64 `json:"client_to_peer_bytes"`
	ClientToPeerPackets int64 `json:"client_to_peer_packets"`
	PeerToClientBytes   int64 `json:"peer_to_client_bytes"`
	PeerToClientPackets int64 `json:"peer_to_client_packets"`

	FromClientBytes   int64 `json:"from_client_bytes"` // in
	FromClientPackets int64 `json:"from_client_packets"`
	ToPeerBytes       int64 `json:"to_peer_bytes"` // out
	ToPeerPackets     int64 `json:"to_peer_packets"`
	FromPeerBytes     int64 `json:"from_peer_bytes"` // in
	FromPeerPackets   int64 `json:"from_peer_packets"`
	ToClientBytes     int64 `json:"to_client_bytes"` // out
	ToClientPackets   int64 `json:"to_client_packets"`
}

func (t *traffic) stats() LegStats {
	s := LegStats{
		FromClientBytes: t.fromClient.bytes.Load(), FromClientPackets: t.fromClient.packets.Load(),
		ToPeerBytes: t.toPeer.bytes.Load(), ToPeerPackets: t.toPeer.packets.Load(),
		FromPeerBytes: t.fromPeer.bytes.Load(), FromPeerPackets: t.fromPeer.packets.Load(),
		ToClientBytes: t.toClient.bytes.Load(), ToClientPackets: t.toClient.packets.Load(),
	}
	s.ClientToPeerBytes, s.ClientToPeerPackets = s.ToPeerBytes, s.ToPeerPackets
	s.PeerToClientBytes, s.PeerToClientPackets = s.ToClientBytes, s.ToClientPackets
	return s
}

// CodeCount counts STUN error responses by code.
type CodeCount map[int]int64

// DropCount counts by reason, in words.
type DropCount map[string]int64

// A traffic counts the payload of one allocation, or of all.
type traffic struct{ fromClient, toPeer, fromPeer, toClient leg }

type leg struct{ bytes, packets atomic.Int64 }

func (l *leg) add(bytes, packets int) {
	l.bytes.Add(int64(bytes))
	l.packets.Add(int64(packets))
}

// A dropReason says why a packet went nowhere.
type dropReason int

const (
	dropMalformed    dropReason = iota // refused by stunmsg, or neither STUN nor ChannelData
	dropUnexpected                     // a message that has no meaning here
	dropNoAllocation                   // data of a client that has none
	dropNoChannel                      // a channel that is not bound, or without permission
	dropNoPermission                   // a peer without permission
	dropDenied                         // a peer that the policy refuses
	dropBudget                         // more than the session may relay
	dropSend                           // the kernel refused it
	dropQueue                          // a client or the relay too slow to take it
	dropSilenced                       // error answers and Binding answers over the budget
	dropStream                         // stream connections refused: caps
	dropRequest                        // requests of a user over its rate
	dropTooLong                        // longer than a frame of a stream may be
	dropReasons
)

func (r dropReason) String() string {
	return [dropReasons]string{
		"malformed", "unexpected", "no_allocation", "no_channel", "no_permission", "denied",
		"budget", "send_failed", "queue_full", "rate_limited", "stream_refused", "requests_limited",
		"too_long",
	}[r]
}

// counters are shared by everything a Server runs.
type counters struct {
	traffic
	total  atomic.Int64
	stun   atomic.Int64
	denied atomic.Int64
	drops  [dropReasons]atomic.Int64
	codes  [700]atomic.Int64 // STUN error codes are 300 to 699
}

func (c *counters) drop(r dropReason, packets int) { c.drops[r].Add(int64(packets)) }

// Stats returns the counters as they stand.
func (s *Server) Stats() Stats {
	c := &s.count
	st := Stats{
		Allocations:      s.ledger.live(),
		AllocationsTotal: c.total.Load(),
		Streams:          s.seats.taken(),
		Relay:            c.traffic.stats(),
		STUN:             c.stun.Load(),
		Denied:           c.denied.Load(),
		Refused:          CodeCount{},
		Dropped:          DropCount{},
	}
	for code := range c.codes {
		if n := c.codes[code].Load(); n > 0 {
			st.Refused[code] = n
		}
	}
	for r := range dropReasons {
		st.Dropped[r.String()] = c.drops[r].Load()
	}
	return st
}

// An Event is one thing that happened to an allocation, for the operator: who,
// from where, to which peers, how much.
type Event struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event"` // allocated, ended, denied, refused
	Client  string    `json:"client,omitempty"`
	Over    string    `json:"transport,omitempty"` // udp, tcp, tls
	User    string    `json:"user,omitempty"`      // without the time stamp
	Relayed string    `json:"relayed,omitempty"`
	Peer    string    `json:"peer,omitempty"`
	Code    int       `json:"code,omitempty"`
	Why     string    `json:"why,omitempty"`

	// Set on ended.
	Seconds           float64 `json:"seconds,omitempty"`
	ClientToPeerBytes int64   `json:"client_to_peer_bytes,omitempty"`
	PeerToClientBytes int64   `json:"peer_to_client_bytes,omitempty"`
}

const keptEvents = 256

// Events returns the last events, the oldest first.
func (s *Server) Events() []Event {
	s.eventMu.Lock()
	defer s.eventMu.Unlock()
	return slices.Clone(s.events[max(0, len(s.events)-keptEvents):])
}

func (s *Server) emit(e Event) {
	e.Time = s.now().UTC()
	e.User = printable(e.User)
	s.eventMu.Lock()
	if len(s.events) == 2*keptEvents { // seldom, so that an event costs no copy
		s.events = slices.Delete(s.events, 0, keptEvents)
	}
	s.events = append(s.events, e)
	s.eventMu.Unlock()
	s.log.Debug("relay event", "event", e.Event, "client", e.Client, "user", e.User, "peer", e.Peer, "code", e.Code, "why", e.Why)
}

// printable makes text from the network fit for terminals and logs.
func printable(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most]
	}
	clean := make([]rune, 0, len(s))
	for _, r := range s {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			r = '?'
		}
		clean = append(clean, r)
	}
	return string(clean)
}
