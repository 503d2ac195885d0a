package relay

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/p2pagent/p2pagent/internal/units"
)

// Credentials in the form of the TURN REST API (draft-uberti-behave-turn-rest):
// the username is "EXPIRY:user", EXPIRY in seconds since 1970, the password is
// base64(HMAC-SHA1(secret, username)). Whoever holds the secret can mint, the
// server keeps no list.

// ClockSkew is how far the clocks of the minting and the relaying server may
// stand apart.
const ClockSkew = 2 * time.Minute

// Mint makes a credential for user that can allocate for ttl from now.
func Mint(secret []byte, user string, ttl time.Duration, now time.Time) (username, password string) {
	username = strconv.FormatInt(now.Add(ttl).Unix(), 10) + ":" + user
	return username, restPassword(secret, username)
}

func restPassword(secret []byte, username string) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

var errExpired = errors.New("credential expired")

// expiry reads the time stamp of a REST username.
func expiry(username string) (time.Time, error) {
	stamp, _, _ := strings.Cut(username, ":")
	sec, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || sec < 0 {
		return time.Time{}, fmt.Errorf("username %q: does not begin with a time stamp", username)
	}
	return time.Unix(sec, 0), nil
}

// checkExpiry tells whether username may still allocate.
func checkExpiry(username string, now time.Time) error {
	until, err := expiry(username)
	if err != nil {
		return err
	}
	if late := now.Sub(until); late > ClockSkew {
		return fmt.Errorf("%w %s ago", errExpired, units.Duration(late))
	}
	return nil
}

// identity is who a REST username stands for: the part after the time stamp,
// so that a client which has fetched a newer credential is still the same
// user. A username without that part stands for itself.
func identity(username string) string {
	if _, user, ok := strings.Cut(username, ":"); ok && user != "" {
		return user
	}
	return username
}

// nonces makes and checks nonces without keeping any (RFC 8489 section 9.2):
// four bytes of time and eight of HMAC over the time and the client's address.
// Short, so that a 401 to a forged source is small; bound to the address, so
// that one seen on the wire is of no use elsewhere.
type nonces struct {
	key      []byte
	lifetime time.Duration
}

const nonceSize = 12

func (n nonces) mint(client netip.Addr, now time.Time) string {
	var b [nonceSize]byte
	binary.BigEndian.PutUint32(b[:4], uint32(now.Unix()))
	n.sign(&b, client)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// check tells whether nonce is one of ours for this client, who then has its
// address and received it there once, and whether it is not too old.
func (n nonces) check(nonce string, client netip.Addr, now time.Time) (ours, fresh bool) {
	got, err := base64.RawURLEncoding.DecodeString(nonce)
	if err != nil || len(got) != nonceSize {
		return false, false
	}
	want := [nonceSize]byte(got)
	n.sign(&want, client)
	if subtle.ConstantTimeCompare(got, want[:]) != 1 {
		return false, false
	}
	age := now.Sub(time.Unix(int64(binary.BigEndian.Uint32(got)), 0))
	return true, age <= n.lifetime && age >= -time.Minute
}

func (n nonces) sign(b *[nonceSize]byte, client netip.Addr) {
	mac := hmac.New(sha256.New, n.key)
	mac.Write(b[:4])
	addr := client.As16()
	mac.Write(addr[:])
	copy(b[4:], mac.Sum(nil))
}
