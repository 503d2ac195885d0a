// Package session is the encrypted session of one link: QUIC over whatever
// net.PacketConn it is given, one control stream, and any number of payload
// streams. It knows packet conns and identities; it does not know ICE, TURN or
// which path its packets take.
//
// # Roles
//
// The connecting side is the QUIC client, the listening side the server. Both
// present a certificate, both pin the other's (see internal/identity).
//
// # Streams
//
// The side that opens a stream writes a header at once and may write payload
// right behind it:
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------+---------------+-------------------------------+
//	|  version = 1  |     kind      |   length of target (bytes)    |
//	+---------------+---------------+-------------------------------+
//	|                     target (UTF-8, 0..512)                    |
//
// The accepting side answers with a status, then with payload:
//
//	+---------------+---------------+-------------------------------+
//	|  version = 1  |  status code  |   length of sentence (bytes)  |
//	+---------------+---------------+-------------------------------+
//	|            sentence for people (UTF-8, 0..512)                |
//
// Status 0 is accepted; any other is a [Code], and nothing follows it. A
// stream of a kind that the accepting side does not know gets
// [CodeUnsupported], so that an older peer answers instead of hanging.
//
// The end of payload is the stream's FIN, per direction (half-close). What
// ends otherwise ends with RESET_STREAM and STOP_SENDING carrying a [Code]: a
// reader never sees a clean end after a lost tail. Where both sides have the
// transport parameter reset_stream_at (draft-ietf-quic-reliable-stream-reset),
// the reset is a RESET_STREAM_AT, and all that was written arrives before it.
//
// # Control stream
//
// The first stream, of kind [KindControl], carries frames both ways: a 32-bit
// length (1 to 65536), then that many bytes of JSON, whose meaning is the
// caller's. The first frame of each side is a hello of this package's own,
// {"hello":1}; the session counts as up when the peer's hello has arrived.
// That is also the proof that the peer accepted our certificate, which TLS 1.3
// does not give the client by the end of its handshake.
//
// # Datagrams
//
// A DATAGRAM frame (RFC 9221) begins with one byte, the kind of stream that it
// belongs to; the rest is that kind's. Of a kind that the receiver does not
// expect it is dropped.
//
// Begin reading at session.go.
package session
