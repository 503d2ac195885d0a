// Package udpsock is a UDP socket that moves many datagrams with one system
// call and tells STUN from everything else.
//
// One socket carries QUIC, our fragments and STUN (RFC 7983: by the first
// byte, 0 to 3 is STUN). [Socket.Serve] reads it and hands data to a [Handler]
// in whole batches, as they came from the kernel; STUN messages are checked
// (stunmsg.Check) and go one by one, to whoever waits for them in
// [Socket.RoundTrip], else to the Handler. What is neither is dropped and
// counted.
//
// On Linux a read takes up to 64 KiB of datagrams from one source that the
// kernel coalesced (UDP_GRO), and a send gives the kernel up to 64 datagrams
// of one size to cut (UDP_SEGMENT). This is where the throughput is: the cost
// of a QUIC transfer is system calls per packet. Elsewhere, and on request
// (Config.Portable), the same interface does one datagram per call.
//
// A server with many sockets reads them by [Loops]: a few goroutines take many
// datagrams a call from whoever sent them (recvmmsg) and join those of one flow,
// as if the sender had used UDP_SEGMENT.
//
// It does not know sessions, paths or peers: anybody may send to a UDP port,
// and who is allowed in is for the Handler to decide. It does not retry data.
//
// # Errors
//
// A socket survives what the network does to it. Reads go on after any error
// but the socket's end. A send returns an error that is net.ErrClosed when the
// socket is closed, and otherwise a [LossError]: those datagrams, or as many of
// them as it says, are lost, the socket is not.
//
// # Where to begin
//
// socket.go for the type, serve.go for reading, split.go for how a batch is
// divided, send.go for sending, roundtrip.go for STUN requests. conn.go is the
// seam below which the platforms differ: conn_linux.go and conn_portable.go.
// loops.go is for servers: loop_linux.go waits, batch_linux.go reads, merge.go
// joins.
package udpsock
