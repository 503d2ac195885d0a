// Package path is the net.PacketConn that QUIC sees: one constant peer address
// above paths that come, change and die.
//
// A path is a carrier (a UDP socket, or an allocation on a relay) and a remote
// address. The package proves paths with authenticated probes, measures how
// large a datagram each carries, notices within seconds when one dies, and
// moves the payload to the best one. QUIC notices nothing but a changed round
// trip time. It does not find candidates, open NATs or talk to relays; those
// who do hand it carriers ([Conn.AddCarrier]) and remote addresses
// ([Conn.Try]). It does not encrypt: payload is QUIC's, and only QUIC knows
// whether a packet is genuine. What it keeps out are senders that are not the
// peer.
//
// Each side chooses for itself where it sends, and takes payload from every
// path that the peer has proved; the two directions need not use the same one.
//
// # Probes
//
// A probe is a STUN Binding request (RFC 8489), its answer a success response
// with the same transaction id. Both carry
//
//	USERNAME           the link's id, '#', and the sender's side: i (initiator) or r
//	attribute 0xC0FE   see below
//	PADDING            in requests that prove a size
//	XOR-MAPPED-ADDRESS in answers: where the request came from
//	MESSAGE-INTEGRITY  with the key of the two Conns (short-term mechanism)
//	FINGERPRINT
//
// The attribute 0xC0FE has 20 bytes in requests, of which answers have the
// first four; readers ignore what follows.
//
//	 0  1  flags: bit 0 says that the sender's end is a relay allocation, bit 3
//	       that it reaches that relay over TCP or TLS, bit 1 (in requests) that the
//	       sender needs the path: it is new, warm or active, bit 2 that what the
//	       sender sends over it leaves through a tunnel
//	 1  3  zero, ignored
//	 4  8  epoch: random, one per Conn
//	12  8  sequence number of the request within the epoch
//
// A request that was seen before, or is 2048 behind the newest of its epoch, is
// ignored: what someone on the way records and sends again opens no path. An
// answer counts if its transaction is open, its side is the peer's, and it came
// from the address that was asked. No answer is given for a path that may not
// carry payload (a relayed one under RequireDirect), so that the peer does not
// take it for usable.
//
// An authenticated request from an unknown source makes a path, if the peer
// needs it; the path is probed back, and usable once that is answered. Payload
// is taken from a source for 30 seconds after an authenticated request or answer
// from it, and sent to it for 30 seconds after an answer (RFC 7675).
//
// # Tunnels
//
// A path is in a tunnel when the packets of either side leave through a tunnel
// interface of its host, such as a VPN's. Each side looks at its own routes, when
// a path is new and every two seconds, and tells the other with its probes. Such
// a path comes behind every other, relayed ones included: what carries a tunnel
// is not known, and it may be slow, another relay, or this very link. Where all
// paths are in tunnels, because everything of a host goes through one, direct
// comes before relayed as ever.
//
// # Paths that carry our own packets
//
// A VPN whose packets go through a forward of the link looks like a direct path,
// and a fast one. Payload moved there would carry itself: it enters the tunnel,
// comes back as payload, and nothing leaves the host any more. The interface alone
// does not tell (the VPN may run on another machine), nor does what the packets
// contain (they are encrypted). But what carries a probe has to leave after it.
// So a probe that is answered while no payload leaves clears its path, for
// certain.
//
// Only direct paths are doubted, and relayed ones in tunnels. Where no probe meets
// such a moment by itself, one is made: payload waits for a trial, which ends with
// the answer, one round trip of the path later, or after two round trips and four
// deviations, between 300 ms and 2 s (in a tunnel, three of its shortest round
// trips if that is less, from 150 ms on). A path is preferred to one that works only when it is
// cleared, and one in a tunnel doubles nothing before. With the third trial in a
// row that brings no answer, though the path answers otherwise, it is barred: it
// is never used. It is tried again after 30 s, after one minute, and then every
// two; at once when nothing else works. Any proof ends that. The proof of a path in a tunnel is
// good for 30 s, as what carries the tunnel may change, and ends with a silence;
// that of another one ends with its death.
//
// # When probes are sent
//
// Where payload goes is active. The best other relayed path and the best other
// direct one are warm. The rest is cold, or watched while the active path is
// suspect or dead. All but the cold ones are probed once a second; these every
// 10 seconds, which is enough for NATs and relays not to forget them. A dead
// path that is not cold is probed every 5 seconds after the first 30, and any
// twice a second while none is alive. All these pauses are up to a twentieth
// shorter, by chance. Of the cold paths that neither side has needed for 5
// minutes only the best four are kept. A path to an address that the peer had on
// a relay, and has exchanged for another one, is closed when it is dead.
//
// A new path, one with a missing answer, one that is cold no longer, and after
// [Conn.Nudge] every path, is probed at once and again after 20, 40, 80, 160,
// 320 and 640 ms, until any answer comes. An answer is missing after two round
// trips and four deviations: at least 300 ms, at most 1 s or two round trips,
// and never more than 8 s.
//
// A path with two missing answers in a row (three, while payload comes in) is
// suspect: all payload goes over it and over the best other one. After 5
// seconds, or four round trips if that is more, but at most 15 seconds, without
// an answer it is dead, and payload leaves it; the time in which a cold path was not asked counts as
// one second. A dead path is probed on, and used when nothing else is left. One
// that comes back to life waits in quarantine before it is preferred again: 1
// second, doubled with each death, at most 30.
//
// Payload that comes in does not keep a path alive: it proves the other
// direction only, and a NAT that forgot its mapping often cuts just one.
//
// Whenever payload moves, gains a second path, or a path in use comes back, the
// last 32 datagrams are sent again, as far as they were sent after the last
// moment at which the path is known to have worked; at most every 500 ms, later
// if need be.
//
// # Sizes and fragments
//
// The size of a path is the longest probe that was answered, tried in steps of
// 548, 1200, 1280, 1360, 1400, 1444 and 1452 bytes of UDP payload. Along with
// the first probes of a new path go some of 1200 bytes; with one answered it is
// usable. When a path becomes active, the sizes above are probed all at once,
// then again after 100 ms (or one and a half round trips), 300 ms, 1, 10, 20, 40
// and every 60 seconds. On a warm path they are probed one by one, every 2
// seconds from 5 seconds on, the largest first, and again a minute later. On
// the others nothing above 1200 is.
//
// With the small probes of an active path goes one of the proved size: with
// each while payload flows, else every 10 seconds; on a warm path every 30. When
// one is lost although smaller ones are answered, the sizes below (on a warm
// path those up to 1200) are probed at once; with the third loss in a row the
// size falls to the largest of those that were answered. When this host's own
// network refuses a datagram for its length, the size falls at once, and the
// datagram goes again in fragments.
//
// A longer datagram is sent in 2 to 4 fragments of equal length:
//
//	0  1  0x30 | (count-1)<<2 | index
//	1  1  zero, ignored
//	2  2  length of the datagram
//	4  4  number of the datagram, one more for each that its sender splits
//	8     piece: ceil(length/count) bytes, the last one padded with zeros
//
// First bytes 0 to 3 are STUN, 0x30 to 0x3F are fragments, 0x40 and above are
// QUIC (RFC 7983, RFC 9443); everything else is dropped. Up to 64 datagrams may
// be incomplete at a time, for 5 seconds.
//
// # Where to begin
//
// engine.go decides, without I/O or a clock: probes and answers in, actions
// out; upkeep.go is what it does as time goes by. Their parts are choose.go
// (where payload goes), care.go (which paths are worth probing), trial.go (which
// carry our own packets), track.go (one path) and sizer.go.
// apply.go does what it asks for. The data path is write.go (QUIC to carrier),
// carrier.go and read.go (carrier to QUIC), with quic.go for what quic-go asks
// of its socket. conn.go has the API.
package path
