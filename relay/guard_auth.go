package relay

import (
	"net/netip"
	"time"

	"github.com/p2pagent/p2pagent/internal/stunmsg"
)

// Error codes of RFC 8489 section 14.8 and RFC 8656 section 19.
const (
	codeBadRequest           = 400
	codeUnauthenticated      = 401
	codeForbidden            = 403
	codeUnknownAttribute     = 420
	codeAllocationMismatch   = 437
	codeStaleNonce           = 438
	codeFamilyUnsupported    = 440
	codeWrongCredentials     = 441
	codeTransportUnsupported = 442
	codeFamilyMismatch       = 443
	codeQuotaReached         = 486
	codeServerError          = 500
	codeInsufficientCapacity = 508
)

// authenticated is who signed a request.
type authenticated struct {
	username string // as in the request
	user     string // its identity
	key      []byte // signs the answer
	expired  bool   // good for what the user has, not for more

	// proved, also set beside a code, says that the source is not forged: it
	// knows a nonce that was sent there.
	proved bool
}

// An authenticator checks the long-term credential mechanism (RFC 8489
// section 9.2) against the REST secrets. It keeps nothing.
type authenticator struct {
	realm   string
	secrets [][]byte // several, so that one can be rotated out
	nonces  nonces
}

// check returns who signed the request, or the code to refuse it with. Unlike
// pion it says 401 for a wrong user or password, as clients expect, and leaves
// an expired credential to be judged by what is asked for.
func (a *authenticator) check(m *stunmsg.Message, client netip.Addr, now time.Time) (authenticated, int) {
	if !m.Has(stunmsg.AttrMessageIntegrity) {
		return authenticated{}, codeUnauthenticated
	}
	if !m.Has(stunmsg.AttrUsername) || !m.Has(stunmsg.AttrRealm) || !m.Has(stunmsg.AttrNonce) {
		return authenticated{}, codeBadRequest
	}
	ours, fresh := a.nonces.check(m.Nonce(), client, now)
	if !fresh {
		return authenticated{proved: ours}, codeStaleNonce
	}
	name := m.Username()
	if _, err := expiry(name); err != nil || m.Realm() != a.realm {
		return authenticated{proved: true}, codeUnauthenticated
	}
	for _, secret := range a.secrets {
		key := stunmsg.LongTermKey(name, a.realm, restPassword(secret, name))
		if m.Verify(key) == nil {
			return authenticated{
				username: name, user: identity(name), key: key,
				expired: checkExpiry(name, now) != nil, proved: true,
			}, 0
		}
	}
	return authenticated{proved: true}, codeUnauthenticated
}

// refusal builds an error response before or without authentication: short,
// because the source may be forged.
func (a *authenticator) refusal(to stunmsg.Header, code int, client netip.Addr, now time.Time) []byte {
	b := stunmsg.Error(to, code, "")
	if code == codeUnauthenticated || code == codeStaleNonce {
		b = b.Realm(a.realm).Nonce(a.nonces.mint(client, now))
	}
	return b.Bytes()
}
