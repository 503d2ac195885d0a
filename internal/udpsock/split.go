package udpsock

// isData tells data (QUIC, fragments) from what has to be STUN or nothing.
func isData(datagram []byte) bool { return len(datagram) > 0 && datagram[0] > 3 }

// takeSTUN calls stun with each datagram of b that is not data, in order, and
// returns what is left: the data, moved together in place, still datagrams of
// seg bytes of which only the last may be shorter.
func takeSTUN(b []byte, seg int, stun func([]byte)) []byte {
	kept := 0
	for at := 0; at < len(b); at += seg {
		d := b[at:min(at+seg, len(b))]
		if !isData(d) {
			stun(d[:len(d):len(d)])
			continue
		}
		if kept != at {
			copy(b[kept:], d)
		}
		kept += len(d)
	}
	return b[:kept]
}
