// Package forward carries TCP connections over the streams of a session, in
// both directions, with ssh's words: -L opens a port here for a target there,
// -R opens a port there for a target here.
//
// It knows "open a stream" and "answer a stream", not QUIC and not paths.
//
// What a peer may reach is decided by an [AllowList] on the side that dials or
// listens for it, per stream, on the very addresses that are then dialed. Nothing
// is reachable by default. A name on the list may have no address for a while, and
// may move; names.go says when it is looked up, reach.go where it may lead.
//
// A port is opened at both loopbacks unless a bind says otherwise, as ssh does it;
// unlike ssh's, one that is in use at one of them is opened at none.
//
// Ends are kept apart: EOF travels as half-close, an error as a reset, and a reset
// comes after the data that came before it. A local program never sees a clean end
// of a connection whose tail was lost, not even when this process is killed.
//
// Begin reading at copy.go for what happens to a byte, at ends.go for how a
// connection ends, at allow.go for who may.
package forward
