package agent

import (
	"errors"
	"fmt"
	"time"

	"github.com/p2pagent/p2pagent/internal/trace"
	"github.com/p2pagent/p2pagent/internal/units"
	"github.com/p2pagent/p2pagent/relay"
)

// errNoServers is why there is no relay where nobody has named one.
var errNoServers = errors.New("the signaling server names no TURN server")

// noRelay notes why there is no relay, and says so when that is news.
func (l *link) noRelay(err error) {
	r := &l.relaying
	r.err = err
	if text := err.Error(); text != r.told {
		r.told = text
		l.trace.Emit(trace.RelayMissing{Why: text, Remedy: relayRemedy(err, l.servers.minted)})
	}
}

// relayRemedy is what to do about a relay that is not there. minted says that the
// credentials are signaling's.
func relayRemedy(err error, minted bool) string {
	var none *noRelayError
	switch {
	case errors.Is(err, errNoServers):
		return "start `signal` with its relay, or name a server with --turn"
	case errors.Is(err, errNoCredentials):
		return "give the server's user and password with --turn-auth-file"
	case errors.Is(err, relay.ErrCredentials) && minted:
		return "do signaling and relay use the same --turn-secret-file, and is the time right there?"
	case errors.Is(err, relay.ErrCredentials):
		return "check the user and password in --turn-auth-file"
	case errors.Is(err, relay.ErrQuota):
		return "others, or other links of this machine, have all that the server gives; try again later"
	case errors.As(err, &none) && none.unreachable():
		return "is this machine connected to a network?"
	}
	return "is the server running, and are its ports open, UDP and TCP?"
}

// relayFacts says how it stands with our relay.
func (l *link) relayFacts(f *facts) {
	r := &l.relaying
	f.RelayErr, f.Minted = r.err, l.servers.minted
	if r.alloc != nil {
		f.Relayed, f.RelayedBy = r.alloc.LocalAddr().String(), r.alloc.Transport()
	} else if r.try != nil {
		f.RelaySoFar = r.try.sofar
	}
}

// whyNoPath says of both kinds of path why there is none, and what to do.
func whyNoPath(f facts) (why, remedy string) {
	var relayed, direct string
	switch {
	case f.RelayErr != nil:
		relayed, remedy = fmt.Sprintf("no relay (%v)", f.RelayErr), relayRemedy(f.RelayErr, f.Minted)
	case f.RelaySoFar != nil:
		relayed, remedy = fmt.Sprintf("no relay (%v)", f.RelaySoFar), relayRemedy(f.RelaySoFar, f.Minted)
	case f.Relayed != "":
		relayed = "nothing of the peer came over the relay " + f.Relayed
		remedy = "look at the other side: does it say why it has no path?"
	default:
		relayed, remedy = "no relay has been tried yet", "give it more time: --timeout"
	}
	switch {
	case f.RelayOnly:
		direct = "no direct path is looked for with --relay-only"
	case f.PeerRelayOnly:
		direct = "the peer was told to use the relay only"
	case f.LastErr != nil:
		direct = lastAttempt(f.LastErr)
	case f.Attempts == 0:
		direct = "no attempt for a direct path has ended yet"
	default:
		direct = "the last direct path was lost"
	}
	return relayed + "; " + direct, remedy
}

// noPathError is ErrNoPath with the reasons, as far as they are known.
type noPathError struct {
	peer        string
	waited      time.Duration // 0: not said
	why, remedy string
}

func (e *noPathError) Error() string {
	text := ErrNoPath.Error() + " " + e.peer
	if e.waited > 0 {
		text += " within " + units.Duration(e.waited)
	}
	return text + ": " + e.why
}

// Hint returns what to do next.
func (e *noPathError) Hint() string  { return e.remedy }
func (e *noPathError) Unwrap() error { return ErrNoPath }

// noPath is the error of a link that has none. It waits for the loop.
func (l *link) noPath() *noPathError {
	known := make(chan facts, 1)
	l.do(func() { known <- l.facts() })
	e := &noPathError{peer: l.peer.Name, why: "the link has ended"}
	select {
	case f := <-known:
		e.why, e.remedy = whyNoPath(f)
	case <-l.ended:
	}
	return e
}
