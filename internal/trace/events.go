package trace

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
)

// The events, in the order in which a link meets them.

// ProcessStarted says which program runs, first in every file.
type ProcessStarted struct {
	Version string `json:"version"`
	Command string `json:"command"`
}

// SocketOpened is a local UDP socket (or TURN connection) ready for use.
type SocketOpened struct {
	Network string         `json:"network"` // udp4, udp6, tcp
	Local   netip.AddrPort `json:"local"`
	GSO     bool           `json:"gso"` // segmentation offload in use on sends
	GRO     bool           `json:"gro"` // coalesced receives in use
}

// NATMeasured is what is known of a NAT so far, in RFC 4787 words; nil is not
// measured.
type NATMeasured struct {
	UDP       *bool            `json:"udp"`
	Mapping   *string          `json:"mapping"`
	Filtering *string          `json:"filtering"`
	Mapped    []netip.AddrPort `json:"mapped,omitempty"`
	Remote    bool             `json:"remote,omitempty"` // the peer's, as the peer told
}

// Candidate is one candidate (RFC 8445), local or remote. Refused is empty
// for one that is used, else the reason why it is not.
type Candidate struct {
	Remote  bool           `json:"remote"`
	Type    string         `json:"type"` // host, srflx, prflx, relay
	Addr    netip.AddrPort `json:"addr"`
	Tunnel  bool           `json:"tunnel,omitempty"` // reached through a tunnel, on either side
	Refused string         `json:"refused,omitempty"`
}

// SignalState is the connection to the signaling server.
type SignalState struct {
	URL   string `json:"url"`
	State string `json:"state"` // connecting, connected, lost, refused, held (back for a while)
	Why   string `json:"why,omitempty"`
}

// SignalMessage is one message through signaling or the control stream.
type SignalMessage struct {
	Sent bool   `json:"sent"`
	Via  string `json:"via"` // signaling, control
	Type string `json:"type"`
	Size int    `json:"size"` // bytes of the sealed or framed message
}

// PeerState tells whether the peer is at the rendezvous.
type PeerState struct {
	Present bool   `json:"present"`
	Why     string `json:"why,omitempty"`
	Linked  bool   `json:"linked,omitempty"` // a link with it works, whatever the rendezvous
}

// Paired is a successful pairing.
type Paired struct {
	Name        string `json:"name"` // under which it is remembered here
	Fingerprint string `json:"fingerprint"`

	Again bool   `json:"again,omitempty"`        // its key was known
	Was   string `json:"was,omitempty"`          // its name here until now
	Calls string `json:"calls_itself,omitempty"` // what it calls itself, where that is not the name it got
}

// PairingFailed is a pairing code of the listener's that did not lead to a pairing.
type PairingFailed struct {
	Why   string `json:"why"`
	Final bool   `json:"final,omitempty"` // there is no new code
	Valid bool   `json:"valid,omitempty"` // and none is needed: the code can still be used
}

// RelayAllocated is a TURN allocation made.
type RelayAllocated struct {
	Server    string         `json:"server"`
	Transport string         `json:"transport"` // udp, tcp, tls
	Relayed   netip.AddrPort `json:"relayed"`
	Mapped    netip.AddrPort `json:"mapped"`
	Lifetime  float64        `json:"lifetime_s"`
}

// RelayRefused is a TURN request that failed: an allocation, a permission, a
// channel, a refresh.
type RelayRefused struct {
	Server string `json:"server"`
	What   string `json:"what"` // allocate, permission, channel, refresh
	Peer   string `json:"peer,omitempty"`
	Code   int    `json:"code,omitempty"` // STUN error code, 0 when there was no answer
	Why    string `json:"why"`
}

// RelayMissing says that a link has no relay, of all servers and transports, and
// why; once for each reason, until there is one.
type RelayMissing struct {
	Why    string `json:"why"` // each server, and what became of it
	Remedy string `json:"remedy,omitempty"`
}

// AttemptPlanned says when the next try for a direct path is due after one that
// failed, unless something happens before.
type AttemptPlanned struct {
	MS    int64 `json:"ms"`               // from now
	NoUDP bool  `json:"no_udp,omitempty"` // as far as is known, no UDP leaves one of the two networks
}

// AttemptStarted is one try for a direct path.
type AttemptStarted struct {
	ID      string `json:"id"`
	Local   Addrs  `json:"local"`
	Remote  Addrs  `json:"remote"`
	Opener  int    `json:"opener_ttl"` // 0: none sent
	Trigger string `json:"trigger"`    // first, retry, network, path-lost
}

// AttemptOpened says that openers are out, and when the peer's were known to be.
type AttemptOpened struct {
	ID     string `json:"id"`
	Sent   int    `json:"sent"`
	Peer   bool   `json:"peer"` // false: went on by the fallback timer
	WaitMS int64  `json:"wait_ms"`
}

// AttemptEnded is the end of a try.
type AttemptEnded struct {
	ID       string         `json:"id"`
	OK       bool           `json:"ok"`
	Local    netip.AddrPort `json:"local,omitzero"`
	Remote   netip.AddrPort `json:"remote,omitzero"`
	Type     string         `json:"type,omitempty"` // type of the remote candidate
	Sent     int            `json:"checks_sent"`
	Received int            `json:"checks_received"`
	MS       int64          `json:"ms"`
	Why      string         `json:"why,omitempty"`
}

// Path identifies one path in the path events.
type Path struct {
	ID      int            `json:"id"`
	Kind    string         `json:"kind"` // direct, relayed
	Carrier string         `json:"carrier"`
	Local   netip.AddrPort `json:"local"`
	Remote  netip.AddrPort `json:"remote"`
	Hops    int            `json:"relay_hops"`
	Stream  bool           `json:"stream,omitempty"` // one of its relays is reached over TCP or TLS

	Tunnel   string `json:"tunnel,omitempty"`    // interface of this host that it leaves by, when that is a tunnel
	InTunnel bool   `json:"in_tunnel,omitempty"` // through a tunnel, here or at the peer
}

// PathAdded is a path that an authenticated probe has crossed both ways.
type PathAdded struct {
	Path Path    `json:"path"`
	RTT  float64 `json:"rtt_ms"`
	Size int     `json:"size"` // largest datagram proved, bytes of UDP payload
}

// PathSize is a change of what a path is proved to carry.
type PathSize struct {
	Path Path `json:"path"`
	From int  `json:"from"`
	To   int  `json:"to"`
}

// PathSuspected is a path whose probes are not answered any more.
type PathSuspected struct {
	Path   Path    `json:"path"`
	Why    string  `json:"why"`
	Silent float64 `json:"silent_ms"`
	Active bool    `json:"active"` // payload goes there
	Second *Path   `json:"second"` // where it goes too; null when there is nowhere
}

// PathChanged is the session moving. From is nil for the first path, To is nil
// when none is left.
type PathChanged struct {
	From *Path   `json:"from"`
	To   *Path   `json:"to"`
	Why  string  `json:"why"`
	RTT  float64 `json:"rtt_ms"`
}

// PathBarred is a path that carries the link's own packets, such as a VPN through
// one of its forwards; or, with Barred false, one that is found not to after all.
type PathBarred struct {
	Path   Path   `json:"path"`
	Barred bool   `json:"barred"`
	Why    string `json:"why"`
}

// PathClosed is a path taken out of use.
type PathClosed struct {
	Path     Path   `json:"path"`
	Why      string `json:"why"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
}

// SessionState is the encrypted session.
type SessionState struct {
	State string `json:"state"` // dialing, up, closed
	Why   string `json:"why,omitempty"`
}

// StreamOpened is one forwarded connection that reached its target.
type StreamOpened struct {
	ID     int64  `json:"id"`
	Kind   string `json:"kind"`
	Target string `json:"target"`
	Local  bool   `json:"local"` // opened by this side
}

// StreamWaiting is one that waits for a link with the peer. It is told of the first
// of those that wait at the same time.
type StreamWaiting struct {
	Kind   string `json:"kind"`
	Target string `json:"target"`
	Why    string `json:"why"` // there is no link
}

// StreamRefused is one that did not.
type StreamRefused struct {
	Kind   string `json:"kind"`
	Target string `json:"target"`
	Port   string `json:"port,omitempty"`   // that it came to, or that was to be opened for a -R
	Remote bool   `json:"remote,omitempty"` // the peer asked for it
	Code   string `json:"code,omitempty"`   // the peer's answer; empty: it was not the peer who refused
	Why    string `json:"why"`              // with a Code in the peer's words
}

// StreamsLimited says that connections to a port of this side are reset, as too
// many are open. Why is empty when it is over.
type StreamsLimited struct {
	Kind   string `json:"kind"`
	Target string `json:"target"`
	Local  string `json:"local"` // the port
	Why    string `json:"why,omitempty"`
}

// StreamClosed is its end. Cause is empty for a clean end in both directions.
type StreamClosed struct {
	ID       int64  `json:"id"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
	Cause    string `json:"cause,omitempty"`
}

// TargetDenied is a target of -L that the listening side does not allow, as the
// connecting one has asked at the start of a session.
type TargetDenied struct {
	Target string `json:"target"`
	Remote bool   `json:"remote"`          // the peer has asked, and this side does not allow it
	Never  bool   `json:"never,omitempty"` // no entry of --allow could
}

// TargetResolved is what a lookup of a name on this side's allow-list has found,
// when that is news. While Err is not empty, the addresses are those of before.
type TargetResolved struct {
	Name    string        `json:"name"`
	Addrs   []netip.Addr  `json:"addrs,omitempty"`   // that are dialed from now on
	Before  []netip.Addr  `json:"before,omitempty"`  // that were dialed until now, when others
	Refused []AddrRefused `json:"refused,omitempty"` // of the answer, and never dialed
	Failed  int           `json:"failed,omitempty"`  // lookups before this one, in a row, that found nothing to dial
	Err     string        `json:"error,omitempty"`
}

// AddrRefused is an address of a name, and why it is not dialed.
type AddrRefused struct {
	Addr netip.Addr `json:"addr"`
	Why  string     `json:"why"`
}

// Verdict is the answer to "which path, and why". It has this shape wherever there
// is one.
type Verdict struct {
	Path   string `json:"path"`   // direct, relayed, none
	Text   string `json:"text"`   // a sentence for people
	Remedy string `json:"remedy"` // what would help; empty: nothing that is known, or nothing has to
}

// String is the verdict in one line.
func (v Verdict) String() string {
	if v.Remedy == "" {
		return v.Text
	}
	return v.Text + "; try: " + v.Remedy
}

// Outage is a link through which nothing passes any more, and (Over) the end of that.
// It is told again when what is known of the reason changes.
type Outage struct {
	Over    bool    `json:"over"`
	Silent  float64 `json:"silent_ms"` // so far; with Over, in all
	Verdict Verdict `json:"verdict"`
}

// Failure is an error that ended or delayed something and is told to nobody
// else.
type Failure struct {
	Where string `json:"where"`
	Err   string `json:"err"`
}

// KeyShared tells that two processes listen with one key.
type KeyShared struct {
	// Side is what this process is to them: the "newcomer", which has the place now,
	// the one that was "replaced", or a "peer" that links with them.
	Side  string  `json:"side"`
	From  string  `json:"from,omitempty"` // what they call their machines, as a peer was told
	To    string  `json:"to,omitempty"`
	Kept  bool    `json:"kept,omitempty"`    // the peer's link with the one that was replaced goes on
	Pause float64 `json:"pause_s,omitempty"` // before the peer links again
}

// Trouble is what passes by itself and is waited out: the process is out of file
// descriptors, the system of buffers. Why is empty when it is over.
type Trouble struct {
	Where string `json:"where"`
	Why   string `json:"why,omitempty"`
}

// Unknown is an event of a newer version.
type Unknown struct {
	Name string
	Data json.RawMessage
}

func (ProcessStarted) EventName() string { return "process.started" }
func (SocketOpened) EventName() string   { return "socket.opened" }
func (NATMeasured) EventName() string    { return "nat.measured" }
func (Candidate) EventName() string      { return "candidate" }
func (SignalState) EventName() string    { return "signal.state" }
func (SignalMessage) EventName() string  { return "signal.message" }
func (PeerState) EventName() string      { return "peer.state" }
func (Paired) EventName() string         { return "paired" }
func (PairingFailed) EventName() string  { return "pairing.failed" }
func (RelayAllocated) EventName() string { return "relay.allocated" }
func (RelayRefused) EventName() string   { return "relay.refused" }
func (RelayMissing) EventName() string   { return "relay.missing" }
func (AttemptPlanned) EventName() string { return "attempt.planned" }
func (AttemptStarted) EventName() string { return "attempt.started" }
func (AttemptOpened) EventName() string  { return "attempt.opened" }
func (AttemptEnded) EventName() string   { return "attempt.ended" }
func (PathAdded) EventName() string      { return "path.added" }
func (PathSize) EventName() string       { return "path.size" }
func (PathSuspected) EventName() string  { return "path.suspected" }
func (PathChanged) EventName() string    { return "path.changed" }
func (PathBarred) EventName() string     { return "path.barred" }
func (PathClosed) EventName() string     { return "path.closed" }
func (SessionState) EventName() string   { return "session.state" }
func (StreamOpened) EventName() string   { return "stream.opened" }
func (StreamRefused) EventName() string  { return "stream.refused" }
func (StreamWaiting) EventName() string  { return "stream.waiting" }
func (StreamsLimited) EventName() string { return "streams.limited" }
func (StreamClosed) EventName() string   { return "stream.closed" }
func (TargetDenied) EventName() string   { return "target.denied" }
func (TargetResolved) EventName() string { return "target.resolved" }
func (Verdict) EventName() string        { return "verdict" }
func (Outage) EventName() string         { return "outage" }
func (Failure) EventName() string        { return "failure" }
func (KeyShared) EventName() string      { return "key.shared" }
func (Trouble) EventName() string        { return "trouble" }

// EventName returns the name under which the event was recorded.
func (u Unknown) EventName() string { return u.Name }

// MarshalJSON writes the data as it was read.
func (u Unknown) MarshalJSON() ([]byte, error) { return u.Data, nil }

// Events lists one value of every event type.
func Events() []Event { return slices.Clone(schema) }

// schema lists one value of every event type, for decoding.
var schema = []Event{
	ProcessStarted{}, SocketOpened{}, NATMeasured{}, Candidate{}, SignalState{}, SignalMessage{},
	PeerState{}, Paired{}, PairingFailed{}, RelayAllocated{}, RelayRefused{}, RelayMissing{}, AttemptPlanned{}, AttemptStarted{}, AttemptOpened{},
	AttemptEnded{}, PathAdded{}, PathSize{}, PathSuspected{}, PathChanged{}, PathBarred{}, PathClosed{},
	SessionState{}, StreamOpened{}, StreamWaiting{}, StreamRefused{}, StreamsLimited{}, StreamClosed{}, TargetDenied{}, TargetResolved{},
	Verdict{}, Outage{}, Failure{}, KeyShared{}, Trouble{},
}

func decode(name string, data json.RawMessage) (Event, error) {
	for _, e := range schema {
		if e.EventName() != name {
			continue
		}
		v := reflect.New(reflect.TypeOf(e))
		if err := json.Unmarshal(data, v.Interface()); err != nil {
			return nil, err
		}
		return v.Elem().Interface().(Event), nil
	}
	return Unknown{Name: name, Data: data}, nil
}
