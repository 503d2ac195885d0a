package session

import (
	"time"

	"github.com/quic-go/quic-go"
)

// MaxConnections is how many connections one side may carry over streams at once;
// who opens them counts. 256 for each of two forwards is far more than a person
// uses, and bounded.
const MaxConnections = 512

// IdleTimeout is when a session ends on which nothing arrives: a session outlives a
// quarter of an hour of the peer's sleep. The peer is declared gone by whoever watches
// the paths, sooner if there is reason; this is the bound when nobody does. A peer from
// before has three minutes, and the smaller of both counts.
const IdleTimeout = 17 * time.Minute

const (
	// keepAlive keeps IdleTimeout from ending a link on which nothing is
	// sent. NAT mappings are kept by path probes, so it need not be short.
	keepAlive = 25 * time.Second

	// handshakeIdle bounds a handshake over a path that has just died.
	handshakeIdle = 5 * time.Second

	// maxStreams is how many streams the peer may have open: connections, and
	// those that no number of connections may take away. These are the control
	// stream, those of a measurement, and streams that one side has done with
	// and the other has not yet.
	maxStreams = MaxConnections + 64

	// initialPacketSize is what every path proves before it is used. The
	// path below splits larger packets where a path carries less.
	initialPacketSize = 1200

	// A stream's window grows from the first to the second while the reader
	// keeps up with the sender: 16 MiB are 500 Mbit/s at 250 ms.
	initialStreamWindow = 256 << 10
	maxStreamWindow     = 16 << 20

	// connWindow is credit that all streams share, and it does not grow. What
	// was sent to readers that do not read holds a part of it for as long as
	// they do not, and quic-go renews credit only once a quarter of the
	// window has been read. So that every stream the peer may open can stall
	// without stopping the others, their first windows are three quarters of
	// it at most. It is not memory: only what arrived and was not read is.
	connWindow = 192 << 20
)

// quicConfig holds every value that differs from quic-go's defaults, and
// those defaults that the design relies on.
func quicConfig(idle time.Duration) *quic.Config {
	if idle == 0 {
		idle = IdleTimeout
	}
	return &quic.Config{
		HandshakeIdleTimeout:             handshakeIdle,
		MaxIdleTimeout:                   idle,
		KeepAlivePeriod:                  keepAlive,
		InitialPacketSize:                initialPacketSize,
		InitialStreamReceiveWindow:       initialStreamWindow,
		MaxStreamReceiveWindow:           maxStreamWindow,
		InitialConnectionReceiveWindow:   connWindow,
		MaxConnectionReceiveWindow:       connWindow,
		MaxIncomingStreams:               maxStreams,
		MaxIncomingUniStreams:            -1,    // none are used
		Allow0RTT:                        false, // replayable
		EnableDatagrams:                  true,  // measurements of loss and jitter
		EnableStreamResetPartialDelivery: true,  // a reset does not overtake what came before it
		DisablePathMTUDiscovery:          false, // 1500-byte paths carry 1452-byte packets
	}
}
