// Package measure tells how fast a link is over each of its paths: goodput of
// streams, loss and jitter of datagrams, round trips idle and under load, and
// what they cost. It is `p2pagent bench`, and what a listener answers it with.
//
// It opens and accepts streams and asks a [Link] to hold payload on a path and
// to read counters. It does not know QUIC, how paths come about, or a terminal.
//
// # Protocol
//
// All streams are of the session's kind "measure"; their target says which one.
//
//	control        one at a time per link: requests of the measuring side, an
//	               answer to each
//	echo           what comes in goes back
//	send/ROUND     the accepting side sends payload until the round is over
//	receive/ROUND  the accepting side takes payload until its end
//
// Requests and answers are JSON objects behind a 32-bit length (at most 256
// KiB); readers ignore members that they do not know. An answer has "error", or
// what was asked for:
//
//	{"hello":{"version":..}}         who the other side is: an [End]
//	{"hold":"direct"|"relayed"|""}   keep payload there; "" lets it go
//	{"look":true}                    which path is in use: a look
//	{"start":{round}}                a round begins: its streams are expected
//	{"finish":ROUND}                 waits for the round's streams to end: a half
//
// Payload is sent for a round's seconds from the first byte that a side sends;
// what arrives in as many seconds from the first byte that arrives, less what is
// skipped at the beginning, is what counts. So neither clock has to know what a
// packet takes. The end of payload is the end of its stream, and the taking side
// ends it in answer, so that nothing is left on the way when the next round begins.
//
// With datagrams (RFC 9221), each has the first 8 bytes of the round's name, its
// sequence number (8 bytes), its sender's clock in nanoseconds (8 bytes), and
// zeros. The round is over when none has come for a second.
//
// The other side is authenticated and not trusted: what it asks for is
// bounded, and what it reports is checked to be numbers, and no more payload
// than was sent to it.
//
// # Where to begin
//
// client.go runs a measurement, serve.go answers one; round.go is what both
// sides do in a round. result.go is what comes out; report.go makes a page of
// it, plots.go its pictures, and report.html says how they look.
package measure
