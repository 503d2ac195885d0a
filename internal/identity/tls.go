package identity

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// ALPN is the one application protocol that the two peers speak over TLS.
const ALPN = "p2pagent/1"

// ErrWrongPeer says that the other side of a TLS connection showed another key
// than the pinned one. The connection is refused.
type ErrWrongPeer struct{ Want, Got Fingerprint }

// Error implements error.
func (e ErrWrongPeer) Error() string {
	return fmt.Sprintf("the peer's key is %s, want %s", e.Got, e.Want)
}

// ServerTLS returns the configuration of the side that accepts: the connection
// of that one peer and no other.
func ServerTLS(key *Key, peer Fingerprint) *tls.Config {
	c := pinned(key, peer)
	c.ClientAuth = tls.RequireAnyClientCert // judged by VerifyConnection
	return c
}

// ClientTLS returns the configuration of the side that dials that one peer.
func ClientTLS(key *Key, peer Fingerprint) *tls.Config {
	c := pinned(key, peer)
	// There is no authority and no host name to check against. The pin in
	// VerifyConnection is stronger, and fails closed.
	c.InsecureSkipVerify = true
	return c
}

func pinned(key *Key, peer Fingerprint) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{key.Certificate()},
		MinVersion:   tls.VersionTLS13,
		MaxVersion:   tls.VersionTLS13,
		NextProtos:   []string{ALPN},
		// No tickets: a resumed connection would show no certificate.
		SessionTicketsDisabled: true,
		ClientSessionCache:     nil,
		// Not VerifyPeerCertificate, which resumption skips.
		VerifyConnection: func(s tls.ConnectionState) error { return verify(s, peer) },
	}
}

// verify decides whether a handshake was with the peer. TLS itself has checked
// that the other side holds the private key of its first certificate.
func verify(s tls.ConnectionState, peer Fingerprint) error {
	switch {
	case peer.IsZero():
		return errors.New("no peer is pinned")
	case s.Version != tls.VersionTLS13:
		return fmt.Errorf("TLS version %s, want 1.3", tls.VersionName(s.Version))
	case s.NegotiatedProtocol != ALPN:
		return fmt.Errorf("application protocol %q, want %q", s.NegotiatedProtocol, ALPN)
	case s.DidResume:
		return errors.New("a resumed session")
	case len(s.PeerCertificates) == 0:
		return errors.New("the peer showed no certificate")
	}
	if got := fingerprintOf(s.PeerCertificates[0].RawSubjectPublicKeyInfo); !got.equal(peer) {
		return ErrWrongPeer{Want: peer, Got: got}
	}
	return nil
}
