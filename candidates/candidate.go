package candidates

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Type is where a candidate comes from (RFC 8445 section 5.1.1).
type Type string

// The candidate types, as RFC 8839 abbreviates them.
const (
	Host            Type = "host"
	ServerReflexive Type = "srflx"
	PeerReflexive   Type = "prflx"
	Relayed         Type = "relay"
)

func (t Type) known() bool {
	switch t {
	case Host, ServerReflexive, PeerReflexive, Relayed:
		return true
	}
	return false
}

// Candidate is one transport address at which an agent may be reachable. Its
// JSON form, {"type":"host","addr":"192.0.2.1:5000"}, is what crosses the sealed
// channel between two agents; "tunnel":true may be in it.
type Candidate struct {
	Type Type           `json:"type"`
	Addr netip.AddrPort `json:"addr"`

	// Tunnel says that packets to and from it pass through a tunnel, such as a
	// VPN, as far as the agent that names it knows. Older agents do not say so.
	Tunnel bool `json:"tunnel,omitempty"`
}

// String returns "host 192.0.2.1:5000".
func (c Candidate) String() string {
	if c.Tunnel {
		return fmt.Sprintf("%s %s in a tunnel", c.Type, c.Addr)
	}
	return fmt.Sprintf("%s %s", c.Type, c.Addr)
}

// Validate reports what makes c unusable anywhere: an unknown type, no address,
// port 0, or a zone, which means nothing on another host. Whether this host
// should send to it is for [Filter] to say.
func (c Candidate) Validate() error {
	switch {
	case !c.Type.known():
		return fmt.Errorf("candidate type %.16q is unknown", string(c.Type))
	case !c.Addr.IsValid():
		return errors.New("candidate without an address")
	case c.Addr.Port() == 0:
		return errors.New("candidate with port 0")
	case c.Addr.Addr().Zone() != "":
		return errors.New("candidate with an IPv6 zone")
	}
	return nil
}

// canonical returns c with an IPv4-mapped address as plain IPv4.
func (c Candidate) canonical() Candidate {
	c.Addr = netip.AddrPortFrom(c.Addr.Addr().Unmap(), c.Addr.Port())
	return c
}

// Caps on a list from a peer. A list that exceeds them comes from no agent of
// ours, so all of it is refused.
const (
	maxListBytes   = 16 << 10
	maxListEntries = 128
)

// DecodeList reads a JSON array of candidates sent by a peer. It checks size and
// shape only: a candidate of a type that a newer version invented is kept, for
// [Filter] to refuse by name, so that it does not void its neighbours.
func DecodeList(b []byte) ([]Candidate, error) {
	if len(b) > maxListBytes {
		return nil, fmt.Errorf("candidate list of %d bytes, at most %d are taken", len(b), maxListBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.New("candidate list is not a JSON array")
	}
	var list []Candidate
	for dec.More() {
		if len(list) == maxListEntries {
			return nil, fmt.Errorf("candidate list with more than %d entries", maxListEntries)
		}
		var c Candidate
		if err := dec.Decode(&c); err != nil {
			return nil, fmt.Errorf("candidate %d: %w", len(list)+1, err)
		}
		list = append(list, c)
	}
	if _, err := dec.Token(); err != nil { // the closing bracket
		return nil, fmt.Errorf("candidate list: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("candidate list with something after it")
	}
	return list, nil
}
