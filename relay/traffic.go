package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// Traffic is what an allocation has relayed, as its server counts it: bytes of
// payload. What came from one side and did not go to the other was dropped.
type Traffic struct{ FromClient, ToPeer, FromPeer, ToClient uint64 }

// ErrNoTraffic is a server that does not tell, as all but ours.
var ErrNoTraffic = errors.New("the relay does not tell its traffic")

// attrTraffic is our own attribute in the response to a Refresh: the four
// numbers of a Traffic in their order, 64 bits each, big-endian. Who does not
// know it ignores it (RFC 8489 section 14: comprehension-optional).
const attrTraffic stunmsg.AttrType = 0xE4A7

func (t Traffic) bytes() []byte {
	var b []byte
	for _, v := range []uint64{t.FromClient, t.ToPeer, t.FromPeer, t.ToClient} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func parseTraffic(b []byte) (t Traffic, ok bool) {
	if len(b) != 32 {
		return t, false
	}
	for i, v := range []*uint64{&t.FromClient, &t.ToPeer, &t.FromPeer, &t.ToClient} {
		*v = binary.BigEndian.Uint64(b[8*i:])
	}
	return t, true
}

// total is what has been counted so far.
func (t *traffic) total() Traffic {
	return Traffic{
		FromClient: uint64(t.fromClient.bytes.Load()), ToPeer: uint64(t.toPeer.bytes.Load()),
		FromPeer: uint64(t.fromPeer.bytes.Load()), ToClient: uint64(t.toClient.bytes.Load()),
	}
}

// Traffic asks the server what it has relayed for the allocation so far, by a
// Refresh. [ErrNoTraffic] is a server that does not say.
func (a *Allocation) Traffic(ctx context.Context) (Traffic, error) {
	m, err := a.refreshOnce(ctx)
	if err != nil {
		return Traffic{}, err
	}
	v, _ := m.Attr(attrTraffic)
	t, ok := parseTraffic(v)
	if !ok {
		return Traffic{}, fmt.Errorf("%s: %w", a.cfg.name(), ErrNoTraffic)
	}
	return t, nil
}
