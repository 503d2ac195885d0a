// Package relay is TURN (RFC 8656) from both ends: the server that `signal`
// runs, with its peer policy, credentials and the STUN responder of RFC 5780,
// and the client whose [Allocation] is one of the carriers of a link.
//
// It does not encrypt: what it moves is QUIC, and whoever runs a relay is not
// trusted. It does not decide when a relay is used; that is agent and path. It
// does no TCP relaying (RFC 6062), no IPv6 relayed addresses, no DTLS.
//
// # Server
//
//	client ── UDP ───────┐         ┌─ Binding ──────────── Responder
//	client ── TCP, TLS ──┤  guard ─┼─ requests ─ judged ── engine (pion/turn)
//	                     └─────────┴─ data ─────────────── relayConn ── peer
//
// pion/turn v3 keeps the allocations, permissions and channels. It never
// reads from a network: the guard authenticates and judges every request, and
// asks pion with a message of its own over a conn in memory. The holes of that
// version are listed in server_engine.go next to what closes each. Answers are
// made here too, which is how a denied peer gets 403, a Refresh without an
// allocation 437, another user's request 441, and a quota 486.
//
// Data does not pass pion. It moves between the client's socket and the relayed
// one in batches (udpsock.Loops), and what came as one batch leaves as one, also
// when the client or the peer sent it datagram by datagram.
//
// What is refused, and how:
//
//   - A peer on the deny matrix ([Policy]): 403 on CreatePermission and
//     ChannelBind, silence for a Send indication, and each packet is judged
//     again with its port. [ServerConfig].Allow opens one range at a time. The
//     relay's own address is reachable at the ports of live allocations, and
//     those packets are handed over in memory, so that no other socket of
//     this machine can be reached.
//   - A credential ([Mint]) past its expiry and two minutes for clocks: 401 on
//     Allocate. What its user has allocated goes on being refreshed.
//   - More than so many allocations of one user or address (486), of all
//     (508), and more peers than one allocation may have (508): [Limits].
//   - More than [Limits].SessionRate of one user in one direction, over all its
//     allocations: waits for up to 100 ms, then is dropped.
//   - More than [Limits].RequestsPerUser: silence.
//   - Unauthenticated requests beyond a rate per source, and in all unless a nonce
//     of ours shows that the source is not forged: silence.
//
// TURN is served at [ServerConfig].PublicIP, each address has a socket of its
// own, so that answers leave from the address that was asked.
//
// Read policy.go for who may be reached, guard.go for the way of a message,
// guard_request.go for what each request does, server_engine.go for pion's
// place, server_data.go for the way of a byte.
//
// The response to a Refresh carries one attribute of our own, 0xE4A7: what the
// allocation has relayed, see [Traffic].
//
// # Client
//
// [Allocate] makes an allocation on a server; read client.go and
// allocation.go.
package relay
