package measure

import (
	"context"
	"io"
	"time"

	"github.com/p2pagent/p2pagent/internal/session"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// The two kinds of path, in the words of package path.
const (
	Direct  = "direct"
	Relayed = "relayed"
)

// A Stream carries payload one way or the other; *session.Stream is one.
type Stream interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Reset(session.Code)
	SetDeadline(time.Time) error
}

// A Link is one side of what is measured.
type Link interface {
	// Open opens a stream of the kind measure; ctx bounds no more than that.
	Open(ctx context.Context, target string) (Stream, error)

	// SendDatagram and ReceiveDatagrams are as of a session.
	SendDatagram(b []byte) error
	ReceiveDatagrams(ctx context.Context, handle func([]byte)) error

	// Hold keeps this side's payload on paths of a kind; "" lets it go. It fails
	// with net.ErrClosed when the link is gone, and where this side may not use
	// that kind.
	Hold(kind string) error

	// Look reads counters.
	Look() Look

	// RelayTraffic is what the relay of this side counted so far: payload that
	// came in on both legs of its allocation, and that went out.
	RelayTraffic(ctx context.Context) (in, out uint64, word RelayWord)

	// Verdict is which path the link takes and why. settled says that it has no
	// direct path, and that why one is not to be expected soon is known.
	Verdict() (v trace.Verdict, settled bool)
}

// A RelayWord is whether a side's relay tells what it counted.
type RelayWord string

const (
	RelayNone   RelayWord = ""       // this side has no relay
	RelaySilent RelayWord = "silent" // it has, and that one does not tell
	RelayTold   RelayWord = "told"
)

// A Look is what a side sees of its link at one moment.
type Look struct {
	Active string `json:"active"` // kind of the path that this side's payload takes; "" is none
	Works  bool   `json:"works"`  // and it is not in doubt
	MTU    int    `json:"mtu"`    // longest datagram proved on it

	Out map[string]Classes `json:"out"` // by kind of path, since the link began

	PacketsSent uint64 `json:"packets_sent"` // QUIC's
	PacketsLost uint64 `json:"packets_lost"`
	SocketDrops uint64 `json:"socket_drops"`

	GSO *bool `json:"gso"`
	GRO *bool `json:"gro"`
}
