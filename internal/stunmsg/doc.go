// Package stunmsg holds the STUN messages that we build, check and read
// ourselves (RFC 8489, with the attributes of RFC 8445, RFC 8656 and RFC 5780
// that a NAT-traversing peer and its relay need).
//
// It is the border in front of every other STUN code: [Check] looks at bytes
// from the network without allocating and refuses what is malformed, and only
// what it accepted may reach [Decode] or a library. The pinned pion/stun/v2
// reads past a zero-length XOR address (the bug of CVE-2026-54909), so a
// datagram that never met Check can end the process.
//
// The package does not do transactions, retransmission or sockets (that is
// udpsock), and decides nothing about credentials: it is handed keys.
//
// # Layout
//
// A message is a header of 20 bytes and attributes:
//
//	 0  2  type    00 M11..M7 C1 M6..M4 C0 M3..M0 (method M, class C)
//	 2  2  length  of all attributes; a multiple of 4
//	 4  4  cookie  2112A442
//	 8 12  transaction id
//	20     attributes, each: 2 type, 2 length of the value, value, 0 to 3 bytes of padding
//
// The first byte of STUN is 0 to 3. With QUIC (at least 0x40), TURN
// ChannelData (0x40 to 0x7F) and the fragments of this project it shares ports
// by that byte (RFC 7983), never by the cookie alone: a QUIC packet may carry
// the cookie at offset 4 by chance.
//
// # What Check refuses
//
//   - fewer than 20 bytes, a first byte above 3, another cookie, a length field
//     that is not exactly what was received, or no multiple of 4
//   - a class that the reader cannot be sent (see [Ingress])
//   - an attribute that ends after the message; more than [MaxAttributes] of them
//   - a value whose length its RFC does not allow; an address whose family and
//     length disagree
//   - anything after MESSAGE-INTEGRITY other than MESSAGE-INTEGRITY-SHA256 and
//     FINGERPRINT, or anything after FINGERPRINT: RFC 8489 has the former
//     ignored, and what must be ignored is better not accepted, since libraries
//     differ in whether they do ignore it
//
// Attributes we have no name for pass, whatever they hold. Of an attribute that
// occurs twice the first one counts.
//
// # Where to begin
//
// check.go for what comes in, build.go for what goes out, message.go to read a
// message, integrity.go for who wrote it, framing.go for STUN and ChannelData
// over a stream, pion.go for the way into pion's types.
package stunmsg
