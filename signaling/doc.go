// Package signaling is the rendezvous: it lets two agents that cannot reach
// each other yet exchange sealed messages through a server both can reach.
// This comment is the specification of the protocol between them.
//
// The package does not know what the agents say to each other. Bodies are
// opaque bytes that the agents seal; the server can drop them, never read or
// forge them. It knows neither keys nor names, only mailboxes.
//
// Begin reading at state.go, the rules of the mailboxes without any socket.
// messages.go is the wire, limits.go the limits, server.go and serverconn.go
// the loops around the rules, accept.go, source.go and pending.go what becomes of
// a connection before it may join anything. client.go connects and reconnects, mailbox.go is
// what an agent holds.
//
// # Mailboxes
//
// A mailbox has one host seat (the agent that listens) and guest seats (those
// that connect). The host exchanges messages with each guest; guests do not
// see each other. There are two kinds, told apart by the name:
//
//   - An opaque mailbox is named by 22 to 64 characters of base64url, derived
//     by both agents from a secret they share. It exists while somebody is in
//     it. It holds at most 16 guests.
//   - A nameplate is named by 4 to 7 decimal digits without leading zero. The
//     server picks it when a listener claims one, for people to type. It has
//     room for one guest at a time, and ends ten minutes after the claim, or
//     after its first guest came. A number that was used rests until its time
//     is over.
//
// Every member joins with a seat token of 22 to 64 characters of base64url
// that it chose at random and tells nobody but the server. Joining again with
// the same token, from whatever connection, takes the seat over: this is how
// an agent comes back before the server has noticed that its old connection is
// dead. The old connection is told "replaced" and must not join again by
// itself, or two agents with one key would take turns for ever.
//
// A host says which process it is: run, a token that it made at random when it
// started. When it takes its seat from another run, joined says replaced, so that
// people hear of two agents with one key; a seat whose connection broke with its
// machine looks the same. And so that two agents which are started again
// whenever they end do not take turns either, each such takeover makes the next one
// wait: 5 s, doubled up to a minute, forgotten after ten. A process that comes back to
// its own seat never waits, nor does one whose predecessor has left.
//
// Towards its counterparts a member is known by a number: the host is 0,
// guests count from 1 in the order of their coming.
//
// # Connection
//
// A WebSocket (RFC 6455) at the path /v1, without compression, without
// cookies, one JSON object (RFC 8259) per text frame. TLS is the business of
// the URL scheme: wss:// or ws://.
//
// The client speaks first and does not wait for the answer: hello, and right
// behind it the joins. A fresh client is in its mailbox, and its peer knows,
// within one round trip after the WebSocket handshake.
//
// The access token of the server travels in hello. It is never part of a URL
// that is sent anywhere.
//
// Until its hello is good a connection is pending: it has no part in anything,
// and no place that somebody else could miss. The server has room for 2048 of
// them, and when that is used up the oldest one of the address that has the most
// is closed for the next one.
//
// The server counts by source address: connections, joins and claims of
// nameplates, seats. Behind a proxy that it was told to trust, that is the
// rightmost address of X-Forwarded-For that is no trusted proxy itself, or the one
// in the header of the PROXY protocol. Anybody else who says for whom he speaks
// is not believed.
//
// The name in the Host header is not checked, unless the server was told which
// names to answer under. Such a check is against DNS rebinding: a web page loaded
// under a name that was then pointed at a server near the reader. Here it has
// nothing to guard. Browsers send Origin with every WebSocket, pages cannot leave
// it out, and each Origin that was not allowed is refused, be it the server's own
// name. That holds for an open server too. And nothing that a browser adds by
// itself, such as a cookie, is a permission here; the token is, and the page does
// not have it. The check did harm: it kept out who used a name, and proxies that
// pass the name on.
//
// The server sends a ping every 25 s and gives up on a client that is silent
// for 10 s more. A client gives up on a server that is silent for 40 s.
//
// # Messages from the client
//
//	hello        version, token?, software?    first, once
//	run          run                           before the first join as a host
//	join         mailbox, role, seat           role is "host" or "guest"
//	claim        ref, seat, mailbox?           host of a new nameplate; with mailbox:
//	                                           of this one, again (reconnect, restart)
//	send         mailbox, to?, body            the host names a guest, a guest nobody
//	credentials  mailbox                       once more, while a peer is present
//	leave        mailbox
//
// # Messages from the server
//
//	welcome      version, software?, rate, byte_rate, stun?
//	joined       mailbox, present, replaced?   answers join; present: a peer is there;
//	                                           replaced: the seat was another run's
//	claimed      ref, mailbox, present         answers claim
//	peer         mailbox, from?, present       a counterpart came or left
//	message      mailbox, from?, body          what a counterpart sent
//	credentials  mailbox, username?, password?, ttl?, uris?, stun?
//	error        code, message, retry_after_ms?, mailbox?, ref?
//
// Fields marked ? may be absent, which means zero: "from" and "to" are then
// the host, "present" is false.
//
//	type            string, the name in the tables above
//	version, ref    integer from 1
//	token           string, at most 256 bytes
//	software        string, at most 64 bytes, for logs
//	mailbox, seat, run   string, see above
//	from, to        integer from 0
//	body            standard base64 with padding, 1 to 16384 bytes when decoded
//	rate            messages per second this connection may send; bursts of twice that
//	byte_rate       bytes per second likewise, counting whole frames
//	username, password, ttl, uris   TURN credentials in the REST form: ttl in
//	                seconds, at most 16 URIs as in RFC 7065
//	stun            at most 16 URIs as in RFC 7064
//	message         one sentence for people
//	retry_after_ms  wait at least so long before trying again
//
// TURN credentials are sent to a member whenever a counterpart arrives, and on
// request while one is there: never to somebody who waits alone, so that a
// token holder without a peer gets no relay.
//
// # Order and loss
//
// What one member sends in one mailbox arrives in order or not at all. There
// is no store: a message whose receiver is gone, or leaves before it is
// delivered, is dropped, and the sender gets peer with present false. After
// that, and after a lost connection, the agents begin anew; nothing is resent.
//
// # Errors
//
// After these the server closes the connection, with the WebSocket close code
// given:
//
//	unauthorized    1008  access token missing or wrong; try no more
//	version         1008  "version" is the server's; try no more
//	no_hello        1008  no hello within 10 s
//	malformed       1008  not as specified here (1003 binary frame, 1007 not UTF-8)
//	too_large       1009  a frame over 65536 bytes
//	rate            1008  faster than rate or byte_rate
//	full            1013  no room for one more connection, at all or from this
//	                      address; see retry_after_ms
//
// These concern one message, the mailbox or ref in it, and nothing else:
//
//	rate            too many nameplate joins or claims from this address, too much
//	                waits for the host to read it, or the host's seat was just taken
//	                by another run; see retry_after_ms
//	unknown         no such nameplate, or not for this seat; the two are not told apart
//	taken           the nameplate has a guest, or is claimed by somebody else
//	occupied        another host is there
//	full            the mailbox has 16 guests, or the server no room, at all or
//	                for more from this address
//	limit           this connection is in as many mailboxes as it may be
//	already_joined  this connection is in that mailbox
//	not_joined      this connection is not, or no longer
//	absent          no credentials while no peer is present
//	replaced        the same seat was taken by another connection
//	expired         the nameplate's time is over, or its host ended it
//	unknown_type    the server does not know this type
//
// The server answers a client's close frame when its seats are free: whoever has the
// answer can join again, in another process too, and replaces nobody.
//
// Close codes without an error before them: 1012 the server restarts, 1013 the
// client reads too slowly (more than 256 messages or 256 KiB waiting).
//
// Of these, 64 messages and 64 KiB may be what the other members of one mailbox
// caused, and a quarter is not for members at all. A body that finds no room
// is dropped, and the conversation it belongs to ends: the guest loses its seat
// (not_joined) and may join again, the host gets peer with present false. So
// nobody who sends too fast costs the reader its other mailboxes.
//
// # What is refused, what is ignored
//
// Both sides refuse, before looking at the contents: a frame over 65536 bytes,
// binary frames, invalid UTF-8, nesting over 16, anything but one object. In
// the object: a key twice, a null, a required field missing, a value out of the
// ranges above. Keys are compared exactly, "Type" is not "type".
//
// The server refuses unknown fields, and answers unknown types with
// unknown_type, without repeating them. A client ignores unknown types, fields
// and error codes, so that a server may be newer. It ends the connection when
// more than 64 counterparts are present in one mailbox, or when more than 4096
// messages of its own wait because of the rates in welcome.
//
// # Versions
//
// This is version 1. The client says the version it speaks; the server answers
// with the same or with an error that carries its own. In all versions hello
// has type and version, error has type, code and version, and the server looks
// at the version of hello before any other field.
package signaling
