package path

import "time"

// An action is what the engine asks for.
type action interface{ isAction() }

type (
	// openPath makes a path known to the data path; closePath removes it.
	openPath  struct{ path *track }
	closePath struct {
		path *track
		why  string
	}
	// sendProbe sends a probe: of size bytes, or as small as it is when 0.
	sendProbe struct {
		id     int
		seq    uint64
		size   int
		needed bool // we would rather not do without the path
	}
	// trust lets a path's source deliver payload until then.
	trust struct {
		id    int
		until time.Duration
	}
	// consent lets payload go over a path until then.
	consent struct {
		id    int
		until time.Duration
	}
	// setSize is the largest datagram that goes unsplit; 0 is none proved yet.
	setSize struct{ id, from, to int }
	// setRoute moves payload.
	setRoute struct {
		from, to choice
		why      string
	}
	// replay sends again over a path what was sent in that time.
	replay struct {
		id           int
		since, until time.Duration
	}
	// pausePayload has payload wait, or lets it go.
	pausePayload struct{ on bool }
	// becameUsable, becameSuspect and becameAlive tell of a path's life.
	becameUsable  struct{ path *track }
	becameSuspect struct {
		path   *track
		silent time.Duration
	}
	becameAlive struct{ path *track }
	becameDead  struct{ path *track }
	// becameTunnel tells that a path is in a tunnel now, or is no longer.
	becameTunnel struct{ path *track }
	// becameBarred tells that a path is taken to carry our own packets,
	// becameCleared that it does not after all.
	becameBarred  struct{ path *track }
	becameCleared struct {
		path *track
		why  string
	}
)

func (openPath) isAction()      {}
func (closePath) isAction()     {}
func (sendProbe) isAction()     {}
func (trust) isAction()         {}
func (consent) isAction()       {}
func (setSize) isAction()       {}
func (setRoute) isAction()      {}
func (replay) isAction()        {}
func (becameUsable) isAction()  {}
func (becameSuspect) isAction() {}
func (becameAlive) isAction()   {}
func (becameDead) isAction()    {}
func (becameTunnel) isAction()  {}
func (pausePayload) isAction()  {}
func (becameBarred) isAction()  {}
func (becameCleared) isAction() {}
