//go:build !linux

package path

import "net"

// openOptions returns a UDP socket on the loopback interface, for quic-go to
// set DF on: without it, quic-go would not try larger packets. Batches and
// segmentation are for Linux; here QUIC uses ReadFrom and WriteTo.
func openOptions() (optionSocket, error) {
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}
