// Package punch gets from two candidate lists to one working direct path.
//
// One attempt is one call of [Run], on both sides at about the same time, with
// fresh ICE credentials that the peers exchanged over a sealed channel. It ends
// with a pair of addresses that both sides selected, or with an error that says
// in which direction packets were lost. What triggers an attempt, and when the
// next is due, is for [NextTry] to say; what happens with the pair is not this
// package's business. It gathers nothing, knows no relay and moves no payload.
//
// # The order of an attempt
//
//  1. The call registers its credentials with each [Mux]: from here on requests
//     of the peer are recognised.
//  2. Openers: one Binding indication to each remote candidate, with an IP TTL
//     ([OpenerTTL]) that takes it through our own NATs and not to the peer's. A
//     router that accepts packets to itself takes a probe which arrives before
//     its own side sent anything for a flow of its own; our packets then leave
//     it from another port, and the peer's filter drops them. An opener makes
//     the mapping first, and harms nobody.
//  3. Opened tells the peer. Then the call waits until the peer has told the
//     same, until a check of the peer arrives, which says as much, or until
//     Fallback has passed. Nothing has left at a normal TTL so far.
//  4. Checks: an ICE agent (RFC 8445) of its own for each attempt, never
//     restarted, with one host candidate per socket. Candidates that come later
//     get their opener first and are checked then.
//  5. A pair is selected here. Selected tells the peer, and the agent goes on
//     answering until the peer has told the same, or Linger has passed. Were it
//     closed at once, a peer whose last answers were lost would be stranded.
//  6. The agent ends. For 30 s the mux itself answers Binding requests with the
//     attempt's credentials, for a peer that still waits.
//
// # What stands between the agent and the network
//
// The ICE library trusts its peer and knows no limits, so the [Mux] stands in
// front of it:
//
//   - Routing. Requests go by the ufrag that they name, responses by the
//     transaction id that was seen leaving. Attempts on one socket never meet.
//   - Integrity. A request is checked with our password, a response with the
//     peer's, before the agent sees it. All else ends in the mux.
//   - Destinations. Packets go to announced candidates, at most 20, and to the
//     sources of authenticated requests, at most 8, after Config.Allow.
//   - Pace. 200 packets a second, bursts of 20, 4000 in all. Checks take turns
//     among the destinations and leave room for answers. ICE repeats what is
//     held back.
//
// Roles are fixed by the caller. A peer with the same role ends the attempt
// with [ErrRoleConflict].
//
// Begin reading at run.do in punch.go, which is the order above. gate.go and
// pace.go decide what may be sent, mux.go routes, ice.go holds the agent.
package punch
