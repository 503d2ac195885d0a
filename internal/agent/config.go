package agent

import (
	"fmt"
	"time"

	"github.com/p2pagent/p2pagent/candidates"
	"github.com/p2pagent/p2pagent/internal/forward"
	"github.com/p2pagent/p2pagent/internal/identity"
	"github.com/p2pagent/p2pagent/internal/trace"
)

// Config is what one process of the agent works with.
type Config struct {
	Name  string          // what this machine calls itself when pairing
	Key   *identity.Key   // long-term key
	Peers *identity.Store // known peers

	// StateDir is where this process leaves a mark while it runs, so that the
	// next one can tell peers that it ended. Empty: it leaves none.
	StateDir string

	SignalURL string           // ws:// or wss://, with the access token behind #
	STUN      []candidates.URI // instead of what the signaling server gives; nil: its
	TURN      []candidates.URI // likewise
	TURNUser  string           // credentials for TURN
	TURNPass  string

	RelayOnly     bool // no host or server-reflexive address leaves this machine
	RequireDirect bool // payload never touches a relay
	UDPPort       int  // local port of the first link's socket; 0: any
	Portable      bool // plain UDP I/O, without the kernel's batching

	Allow *forward.AllowList // what a peer may reach through this side; nil: nothing

	// Loopback lets candidates on loopback be used: for tests on one machine.
	Loopback bool

	Version string
	Trace   *trace.Recorder
}

// validate reports every field that cannot work.
func (c Config) validate() error {
	switch {
	case c.Key == nil:
		return fmt.Errorf("agent config: no key")
	case c.Peers == nil:
		return fmt.Errorf("agent config: no store of known peers")
	case c.SignalURL == "":
		return withHint(fmt.Errorf("no signaling server"), "start one with `signal` and paste the line it prints, or give --signal URL")
	case c.RelayOnly && c.RequireDirect:
		return fmt.Errorf("--relay-only and --require direct exclude each other")
	case c.UDPPort < 0 || c.UDPPort > 65535:
		return fmt.Errorf("--udp-port %d: a port is 0 to 65535", c.UDPPort)
	}
	return nil
}

// Our own choices of time.
const (
	gatherTimeout   = 4 * time.Second        // one gathering, servers silent
	earlyAnnounce   = 200 * time.Millisecond // what is known by then is announced, whatever STUN does
	allocateTimeout = 8 * time.Second        // one allocation, all transports tried
	tcpHeadStart    = 200 * time.Millisecond // of each relay transport over the next
	serverHeadStart = 250 * time.Millisecond // of each relay server over the next of the same transport
	retireCheck     = 10 * time.Second       // between looks whether a replaced allocation is still used
	relayedFor      = 300 * time.Millisecond // before the NAT's filtering is worth measuring
	replyTimeout    = 5 * time.Second        // the peer joins an attempt
	attemptTimeout  = 5 * time.Second        // one attempt, given up then
	silentAttempt   = time.Second            // one again, where no UDP seems to leave
	attemptGrace    = 3 * time.Second        // a selected pair becomes a proved path
	healAfter       = time.Second            // without any live path
	heardLately     = 3 * time.Second        // the peer probes more often than that while it lives
	sightCheck      = 2 * time.Second        // signaling is asked for a sign of life, while no path answers
	sightLasts      = 5 * time.Second        // the server's word on a peer, from when it was last heard: no path is dead sooner
	// A peer that is away may be waiting with another secret; see identity.Peer.
	otherSecretAfter = 5 * time.Second
	meetTimeout      = 4 * time.Second // the peer answers handshake message 1
	sessionTimeout   = 20 * time.Second
	redialPause      = 50 * time.Millisecond
	probeTimeout     = 5 * time.Second
	attemptGap       = time.Second            // between the starts of two attempts, whoever asks
	kickGap          = 30 * time.Second       // between two of our own reconnections to signaling
	resolveTimeout   = 3 * time.Second        // of the names of servers
	resolveGrace     = 250 * time.Millisecond // for the other family, when one has answered
	rereadPause      = 2 * time.Second        // after the known peers could not be read
	watchInterval    = 2 * time.Second        // of the network
	sendTimeout      = 5 * time.Second        // one message into signaling
)
